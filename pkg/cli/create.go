package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newCreate(f *factory) *cobra.Command {
	var (
		s selection
		w writeFlags
	)
	c := &cobra.Command{
		Use:   "create -f FILE",
		Short: "Create objects from a manifest or from flags",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(s.files) == 0 {
				return fmt.Errorf("must specify -f FILE, or what to create: 'orchctl create --help' lists the kinds")
			}
			v, err := manifest.ParseValidation(w.validate)
			if err != nil {
				return err
			}
			docs, errs := s.documents(f, v)
			for _, d := range docs {
				if err := w.create(c, f, d.Object); err != nil {
					errs = append(errs, fmt.Errorf("%w (in %s)", err, d.Source))
				}
			}
			return f.report(errs)
		},
	}
	s.fileFlags(c, "create")
	w.add(c, true)
	c.AddCommand(newCreateNamespace(f), newCreateDeployment(f), newCreateConfigMap(f), newCreateSecret(f),
		newCreateRole(f, false), newCreateRole(f, true), newCreateBinding(f, false), newCreateBinding(f, true), newCreateUser(f))
	return c
}

// create sends one object, or with --dry-run=client only prints it.
func (w *writeFlags) create(c *cobra.Command, f *factory, o api.Object) error {
	if err := w.check(); err != nil {
		return err
	}
	switch {
	case w.dryRun == "client" && !c.Flags().Changed("namespace"):
		o.GetMetadata().Namespace = "" // so that what is printed can be applied to any
	case w.dryRun != "client":
		ctx, cl, err := f.begin(c.Context(), "Created", "created with orchctl")
		if err != nil {
			return err
		}
		if o, err = client.ForKind(cl, api.KindOf(o)).Create(ctx, o, w.options()...); err != nil {
			return err
		}
	}
	return w.done(f.Out, o, "created")
}

func newCreateNamespace(f *factory) *cobra.Command {
	var w writeFlags
	c := &cobra.Command{
		Use: "namespace NAME", Aliases: []string{"ns"}, Short: "Create a namespace", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return w.create(c, f, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: args[0]}})
		},
	}
	w.add(c, false)
	return c
}

func newCreateDeployment(f *factory) *cobra.Command {
	var (
		w        writeFlags
		images   []string
		replicas int32
		port     int32
	)
	c := &cobra.Command{
		Use: "deployment NAME --image=IMAGE [-- COMMAND...]", Aliases: []string{"deploy"}, Short: "Create a deployment",
		Example: "  orchctl create deployment web --image=recommend-service:1.0.1 --replicas=3",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			command := args[1:]
			if len(command) > 0 && c.ArgsLenAtDash() != 1 {
				return fmt.Errorf("exactly one NAME is required, got %d: a command goes behind --", len(args))
			}
			if len(images) == 0 {
				return fmt.Errorf(`required flag(s) "image" not set`)
			}
			if len(images) > 1 && len(command) > 0 {
				return fmt.Errorf("cannot specify multiple --image options and command")
			}
			labels := map[string]string{"app": args[0]}
			spec := &v1.PodSpec{}
			for _, image := range images {
				ctr := &v1.Container{Name: containerName(image), Image: image, Command: command}
				if port > 0 && len(spec.Containers) == 0 {
					ctr.Ports = []*v1.ContainerPort{{ContainerPort: port}}
				}
				spec.Containers = append(spec.Containers, ctr)
			}
			return w.create(c, f, &v1.Deployment{
				Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns(), Labels: labels},
				Spec: &v1.DeploymentSpec{
					Replicas: proto.Int32(replicas),
					Selector: &v1.LabelSelector{MatchLabels: labels},
					Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{Labels: labels}, Spec: spec},
				},
			})
		},
	}
	c.Flags().StringArrayVar(&images, "image", nil, "image of a container; may be given several times")
	c.Flags().Int32VarP(&replicas, "replicas", "r", 1, "how many pods")
	c.Flags().Int32Var(&port, "port", 0, "the port that the container serves")
	w.add(c, false)
	return c
}

// containerName is the last part of the image's name, without tag or digest, as
// kubectl names it.
func containerName(image string) string {
	name := image[strings.LastIndex(image, "/")+1:]
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	return strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
}

func newCreateConfigMap(f *factory) *cobra.Command {
	var (
		w    writeFlags
		from dataFlags
	)
	c := &cobra.Command{
		Use: "configmap NAME", Aliases: []string{"cm"}, Short: "Create a config map", Args: cobra.ExactArgs(1),
		Example: "  orchctl create configmap web --from-literal=MODE=dark --from-file=app.conf",
		RunE: func(c *cobra.Command, args []string) error {
			data, err := from.read()
			if err != nil {
				return err
			}
			cm := &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns()}, Data: map[string]string{}}
			for k, v := range data {
				if utf8.Valid(v) {
					cm.Data[k] = string(v)
					continue
				}
				if cm.BinaryData == nil {
					cm.BinaryData = map[string][]byte{}
				}
				cm.BinaryData[k] = v
			}
			return w.create(c, f, cm)
		},
	}
	from.add(c)
	w.add(c, false)
	return c
}

func newCreateSecret(f *factory) *cobra.Command {
	var (
		w    writeFlags
		from dataFlags
		typ  string
	)
	generic := &cobra.Command{
		Use: "generic NAME", Short: "Create a secret from files and literals", Args: cobra.ExactArgs(1),
		Example: "  orchctl create secret generic db --from-literal=password=x",
		RunE: func(c *cobra.Command, args []string) error {
			data, err := from.read()
			if err != nil {
				return err
			}
			return w.create(c, f, &v1.Secret{Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns()}, Type: typ, Data: data})
		},
	}
	from.add(generic)
	w.add(generic, false)
	generic.Flags().StringVar(&typ, "type", "", "type of the secret (default Opaque)")
	return group("secret", "Create a secret", generic, newCreateSecretDockerRegistry(f))
}

func newCreateSecretDockerRegistry(f *factory) *cobra.Command {
	var (
		w      writeFlags
		from   dataFlags
		server string
		login  struct {
			Username string `json:"username,omitempty"`
			Password string `json:"password,omitempty"`
			Email    string `json:"email,omitempty"`
			Auth     []byte `json:"auth,omitempty"` // base64 in JSON
		}
	)
	c := &cobra.Command{
		Use: "docker-registry NAME", Short: "Create a secret for use with a Docker registry, in a pod's imagePullSecrets", Args: cobra.ExactArgs(1),
		Example: "  orchctl create secret docker-registry reg --docker-server=registry.example --docker-username=me --docker-password=x\n" +
			"  orchctl create secret docker-registry reg --from-file=$HOME/.docker/config.json",
		RunE: func(c *cobra.Command, args []string) error {
			if len(from.files) == 0 && (login.Username == "" || login.Password == "" || server == "") {
				return errors.New("either --from-file or the combination of --docker-username, --docker-password and --docker-server is required")
			}
			for i, file := range from.files {
				if !strings.Contains(file, "=") {
					from.files[i] = api.SecretDockerConfigJSONKey + "=" + file
				}
			}
			data, err := from.read()
			if err == nil && len(from.files) == 0 {
				login.Auth = []byte(login.Username + ":" + login.Password)
				data[api.SecretDockerConfigJSONKey], err = json.Marshal(map[string]any{"auths": map[string]any{server: login}})
			}
			if err != nil {
				return err
			}
			return w.create(c, f, &v1.Secret{Metadata: &v1.ObjectMeta{Name: args[0], Namespace: f.ns()}, Type: api.SecretDockerConfigJSON, Data: data})
		},
	}
	w.add(c, false)
	c.Flags().StringVar(&login.Username, "docker-username", "", "username for the registry")
	c.Flags().StringVar(&login.Password, "docker-password", "", "password for the registry")
	c.Flags().StringVar(&login.Email, "docker-email", "", "email for the registry")
	c.Flags().StringVar(&server, "docker-server", "https://index.docker.io/v1/", "location of the registry")
	c.Flags().StringSliceVar(&from.files, "from-file", nil, "a Docker configuration, as [.dockerconfigjson=]PATH")
	return c
}

// dataFlags read the entries of a ConfigMap or Secret.
type dataFlags struct {
	literals, files []string
}

func (d *dataFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&d.literals, "from-literal", nil, "an entry as KEY=VALUE; may be given several times")
	c.Flags().StringArrayVar(&d.files, "from-file", nil, "an entry from a file, as [KEY=]PATH, or one entry for each file of a folder")
}

func (d *dataFlags) read() (map[string][]byte, error) {
	data := map[string][]byte{}
	put := func(k string, v []byte) error {
		if _, ok := data[k]; ok {
			return fmt.Errorf("cannot add key %q, another key by that name already exists", k)
		}
		data[k] = v
		return nil
	}
	for _, l := range d.literals {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("invalid literal source %s, expected key=value", l)
		}
		if err := put(k, []byte(v)); err != nil {
			return nil, err
		}
	}
	for _, spec := range d.files {
		key, path, ok := strings.Cut(spec, "=")
		if !ok {
			key, path = "", spec
		}
		paths := []string{path}
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			if key != "" {
				return nil, fmt.Errorf("cannot give a key name for a directory path: %s", spec)
			}
			entries, err := os.ReadDir(path)
			if err != nil {
				return nil, err
			}
			paths = nil
			for _, e := range entries {
				if e.Type().IsRegular() {
					paths = append(paths, filepath.Join(path, e.Name()))
				}
			}
		}
		for _, p := range paths {
			v, err := os.ReadFile(p)
			if err != nil {
				return nil, err
			}
			k := cmp.Or(key, filepath.Base(p))
			if err := put(k, v); err != nil {
				return nil, err
			}
		}
	}
	return data, nil
}
