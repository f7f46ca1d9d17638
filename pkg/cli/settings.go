package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/cli/printer"
	v1 "orch/proto/v1"
)

func newConfig(f *factory) *cobra.Command {
	c := group("config", "Show and choose contexts")
	// with loads the file, and saves it again where do returns true.
	with := func(do func(cfg *config.Config, args []string) (bool, error)) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, args []string) error {
			_, path, err := f.home()
			if err != nil {
				return err
			}
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			changed, err := do(cfg, args)
			if err != nil || !changed {
				return err
			}
			return cfg.Save(path)
		}
	}
	missing := func(name string) error {
		return fmt.Errorf("no context exists with the name: %q ('orchctl config get-contexts' lists them)", name)
	}
	names := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		_, path, _ := f.home()
		cfg, err := config.Load(path)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		for _, x := range cfg.Contexts {
			out = append(out, x.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	var current, raw bool
	setContext := &cobra.Command{
		Use: "set-context [NAME | --current]", Short: "Change or add a context", Args: cobra.MaximumNArgs(1), ValidArgsFunction: names,
		Example: "  orchctl config set-context --current -n webflix\n  orchctl config set-context vms --server 10.0.0.5:7480 --certificate-authority ca.crt --client-certificate me.crt --client-key me.key",
		RunE: with(func(cfg *config.Config, args []string) (bool, error) {
			name := cfg.CurrentContext
			if !current {
				if len(args) == 0 {
					return false, fmt.Errorf("you must specify a context name or use --current")
				}
				name = args[0]
			}
			if cfg.Context(name) == nil && f.server == "" {
				return false, fmt.Errorf("%w: to add it, give its --server HOST:PORT", missing(name))
			}
			t, _ := cfg.Target(name, "") // what there is of it
			t.Server = cmp.Or(f.server, t.Server)
			if err := f.replaceCredentials(&t); err != nil {
				return false, err
			}
			if cfg.Context(name) == nil || f.server+f.authority+f.certificate+f.key != "" {
				cfg.Set(name, t.Cluster, t.User)
			}
			ctx := cfg.Context(name)
			ctx.Namespace = cmp.Or(f.namespace, ctx.Namespace)
			fmt.Fprintf(f.Out, "Context %q modified.\n", name)
			return true, nil
		}),
	}
	setContext.Flags().BoolVar(&current, "current", false, "the current context")
	view := &cobra.Command{
		Use: "view", Short: "Print the file, without the data of keys", Args: cobra.NoArgs,
		RunE: with(func(cfg *config.Config, _ []string) (bool, error) {
			if !raw {
				cfg.Redact()
			}
			data, err := yaml.Marshal(cfg)
			if err != nil {
				return false, err
			}
			_, err = f.Out.Write(data)
			return false, err
		}),
	}
	view.Flags().BoolVar(&raw, "raw", false, "print the data of certificates and keys too")
	c.AddCommand(
		&cobra.Command{
			Use: "current-context", Short: "Print the name of the current context", Args: cobra.NoArgs,
			RunE: with(func(cfg *config.Config, _ []string) (bool, error) {
				if cfg.CurrentContext == "" {
					return false, fmt.Errorf("current-context is not set")
				}
				fmt.Fprintln(f.Out, cfg.CurrentContext)
				return false, nil
			}),
		},
		&cobra.Command{
			Use: "get-contexts", Short: "List the contexts", Args: cobra.NoArgs,
			RunE: with(func(cfg *config.Config, _ []string) (bool, error) {
				rows := [][]string{{"CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"}}
				for _, x := range cfg.Contexts {
					mark := ""
					if x.Name == cfg.CurrentContext {
						mark = "*"
					}
					rows = append(rows, []string{mark, x.Name, x.Context.Cluster, x.Context.User, x.Context.Namespace})
				}
				return false, printer.Rows(f.Out, rows)
			}),
		},
		&cobra.Command{
			Use: "use-context NAME", Aliases: []string{"use"}, Short: "Choose the current context", Args: cobra.ExactArgs(1), ValidArgsFunction: names,
			RunE: with(func(cfg *config.Config, args []string) (bool, error) {
				if cfg.Context(args[0]) == nil {
					return false, missing(args[0])
				}
				cfg.CurrentContext = args[0]
				fmt.Fprintf(f.Out, "Switched to context %q.\n", args[0])
				return true, nil
			}),
		},
		&cobra.Command{
			Use: "delete-context NAME", Short: "Remove a context", Args: cobra.ExactArgs(1), ValidArgsFunction: names,
			RunE: with(func(cfg *config.Config, args []string) (bool, error) {
				if cfg.Context(args[0]) == nil {
					return false, missing(args[0])
				}
				cfg.Remove(args[0])
				fmt.Fprintf(f.Out, "deleted context %s\n", args[0])
				return true, nil
			}),
		},
		view,
		setContext,
	)
	return c
}

func newAPIResources(f *factory) *cobra.Command {
	var (
		output     string
		noHeaders  bool
		namespaced bool
	)
	c := &cobra.Command{
		Use: "api-resources", Short: "List the kinds of objects", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var rows [][]string
			if !noHeaders {
				rows = append(rows, []string{"NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"})
			}
			for _, k := range api.Kinds() {
				if c.Flags().Changed("namespaced") && k.Namespaced != namespaced {
					continue
				}
				if output == "name" {
					fmt.Fprintln(f.Out, k.Resource())
					continue
				}
				rows = append(rows, []string{k.Plural, strings.Join(k.Short, ","), k.APIVersion(), fmt.Sprint(k.Namespaced), k.Name})
			}
			switch output {
			case "name":
				return nil
			case "", "wide":
				return printer.Rows(f.Out, rows)
			}
			return fmt.Errorf("--output %v is not available: use name or wide", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "name or wide")
	c.Flags().BoolVar(&noHeaders, "no-headers", false, "leave the header out")
	c.Flags().BoolVar(&namespaced, "namespaced", true, "only kinds that live in namespaces (or, with =false, that do not)")
	return c
}

// versions are what `version` prints; the names are Kubernetes'.
type versions struct {
	Client *build `json:"clientVersion,omitempty"`
	Server *build `json:"serverVersion,omitempty"`
}

type build struct {
	GitVersion string `json:"gitVersion"`
	GoVersion  string `json:"goVersion"`
	Platform   string `json:"platform"`
}

func newVersion(f *factory) *cobra.Command {
	var (
		output     string
		clientOnly bool
	)
	c := &cobra.Command{
		Use: "version", Short: "Print the versions of orchctl and of the API server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := versions{Client: &build{f.version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}}
			var unanswered error // what is known is printed all the same
			if !clientOnly {
				v.Server, unanswered = f.serverVersion(c.Context())
			}
			var text []byte
			var err error
			switch output {
			case "":
				text = fmt.Appendf(nil, "Client Version: %s\n", v.Client.GitVersion)
				if v.Server != nil {
					text = fmt.Appendf(text, "Server Version: %s\n", v.Server.GitVersion)
				}
			case "json":
				text, err = json.MarshalIndent(v, "", "  ")
				text = append(text, '\n')
			case "yaml":
				text, err = yaml.Marshal(v)
			default:
				return fmt.Errorf("--output must be 'yaml' or 'json'")
			}
			if err == nil {
				_, err = f.Out.Write(text)
			}
			return cmp.Or(err, unanswered)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	c.Flags().BoolVar(&clientOnly, "client", false, "only the version of orchctl, without asking a server")
	return c
}

func (f *factory) serverVersion(ctx context.Context) (*build, error) {
	ctx, cl, err := f.begin(ctx, "", "")
	if err != nil {
		return nil, err
	}
	v, err := cl.Cluster().Version(ctx, &v1.VersionRequest{})
	if err != nil {
		return nil, api.FromStatus(err)
	}
	return &build{v.GetGitVersion(), v.GetGoVersion(), v.GetPlatform()}, nil
}
