package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// pullProgressTimeout ends a pull during which the engine reports nothing.
// (The kubelet's --image-pull-progress-deadline for Docker had the same
// default.) A slow pull that moves is never ended.
const pullProgressTimeout = time.Minute

// Images returns the local images that have a name.
func (r *Runtime) Images(ctx context.Context) ([]container.Image, error) {
	return ask(ctx, r, "list images", func(ctx context.Context, cli *client.Client) (images []container.Image, err error) {
		list, err := cli.ImageList(ctx, image.ListOptions{})
		for _, i := range list {
			one := container.Image{ID: i.ID, Tags: named(i.RepoTags), Digests: named(i.RepoDigests), SizeBytes: i.Size}
			if len(one.Tags)+len(one.Digests) > 0 {
				images = append(images, one)
			}
		}
		return images, err
	})
}

// named drops what engines before 25 give in place of no name: "<none>:<none>".
func named(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, "<none>") })
}

// Image returns the local image for ref.
func (r *Runtime) Image(ctx context.Context, ref string) (container.Image, error) {
	return ask(ctx, r, "image "+ref, func(ctx context.Context, cli *client.Client) (container.Image, error) {
		i, err := cli.ImageInspect(ctx, ref)
		found := container.Image{ID: i.ID, Tags: i.RepoTags, Digests: i.RepoDigests, SizeBytes: i.Size}
		if i.Config != nil {
			found.User = i.Config.User
		}
		return found, err
	})
}

// Pull fetches ref. The error carries the engine's message, which for most
// causes comes in the middle of a stream that began well.
func (r *Runtime) Pull(ctx context.Context, ref string, o container.PullOptions) (container.Image, error) {
	if err := r.pull(ctx, ref, o); err != nil {
		return container.Image{}, sortError(ctx, "pull "+ref, err)
	}
	return r.Image(ctx, ref)
}

func (r *Runtime) pull(parent context.Context, ref string, o container.PullOptions) error {
	options, err := pullOptions(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	stuck := time.AfterFunc(pullProgressTimeout, func() {
		cancel(fmt.Errorf("%w: no progress for %s", container.ErrUnavailable, pullProgressTimeout))
	})
	defer stuck.Stop()

	cli, err := r.client(ctx)
	if err == nil {
		var stream io.ReadCloser
		if stream, err = cli.ImagePull(ctx, ref, options); err == nil {
			defer stream.Close()
			layers := layers{}
			err = readStream(stream, func(m message) {
				stuck.Reset(pullProgressTimeout)
				if layers.take(m) && o.Progress != nil {
					o.Progress(layers.progress())
				}
			})
		}
	}
	if err != nil && ctx.Err() != nil && parent.Err() == nil {
		return context.Cause(ctx)
	}
	return err
}

func pullOptions(o container.PullOptions) (image.PullOptions, error) {
	if o.Login == nil {
		return image.PullOptions{}, nil
	}
	header, err := registry.EncodeAuthConfig(registry.AuthConfig{Username: o.Login.Username, Password: o.Login.Password})
	return image.PullOptions{RegistryAuth: header}, err
}

// layers are those of an image that is being pulled, by the engine's short ids.
type layers map[string]*layer

type layer struct {
	bytes, total int64
	done         bool
}

// take takes in what the engine says, and tells whether it was about a layer.
func (l layers) take(m message) bool {
	switch m.Status {
	case "Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete", "Extracting", "Pull complete", "Already exists":
	default:
		return false // such as "Pulling from library/nginx", whose id is the tag
	}
	one := l[m.ID]
	if one == nil {
		one = &layer{}
		l[m.ID] = one
	}
	switch m.Status {
	case "Downloading":
		one.bytes, one.total = m.Detail.Current, max(m.Detail.Current, m.Detail.Total)
	case "Download complete", "Extracting":
		one.bytes = one.total
	case "Pull complete", "Already exists":
		one.bytes, one.done = one.total, true
	}
	return true
}

func (l layers) progress() container.Progress {
	p := container.Progress{Layers: len(l)}
	for _, one := range l {
		p.Bytes += one.bytes
		p.TotalBytes += one.total
		if one.done {
			p.Done++
		}
	}
	return p
}

// ImageFile is one file of an image's root file system.
type ImageFile struct {
	Path    string // "/app"; directories above it come by themselves
	Mode    fs.FileMode
	Content []byte
}

// ImageConfig is what an image tells the engine about how to run it.
type ImageConfig struct {
	Entrypoint []string
	Cmd        []string
	Env        []string // "NAME=value"
	Labels     map[string]string
	User       string // "65535:65535"; "" is root
	WorkingDir string
	Expose     []string // "8080/tcp"
}

// ImportImage makes an image from files alone and tags it with ref, replacing
// an earlier image of that tag. It is `FROM scratch` with a static binary,
// without a Dockerfile, a builder or a registry. The same files and config give
// another image id each time, because the engine adds the time.
func (r *Runtime) ImportImage(ctx context.Context, ref string, files []ImageFile, config ImageConfig) (container.Image, error) {
	changes, err := config.changes()
	if err != nil {
		return container.Image{}, fmt.Errorf("import %s: %w", ref, err)
	}
	rootfs, w := io.Pipe()
	defer rootfs.Close() // ends the writer when the engine does not read to the end
	go func() { w.CloseWithError(writeTar(w, files)) }()

	err = r.do(ctx, "import "+ref, func(ctx context.Context, cli *client.Client) error {
		stream, err := cli.ImageImport(ctx,
			image.ImportSource{Source: rootfs, SourceName: "-"}, ref,
			image.ImportOptions{Changes: changes, Message: "imported by orch"})
		if err != nil {
			return err
		}
		defer stream.Close()
		return readStream(stream, func(message) {})
	})
	if err != nil {
		return container.Image{}, err
	}
	return r.Image(ctx, ref)
}

// RemoveImage removes the tag ref, and the image when it was its last tag. No
// error where it is gone already.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	return r.do(ctx, "remove image "+ref, func(ctx context.Context, cli *client.Client) error {
		_, err := cli.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// writeTar writes files as a tar archive, each directory once and before its
// content.
func writeTar(w io.Writer, files []ImageFile) error {
	t := tar.NewWriter(w)
	made := map[string]bool{".": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
	}
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if err := mkdir(path.Dir(name)); err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Content))}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(f.Content); err != nil {
			return err
		}
	}
	return t.Close()
}

// changes writes the config as the Dockerfile instructions that import takes.
func (c ImageConfig) changes() ([]string, error) {
	var changes []string
	list := func(instruction string, values []string) error {
		if len(values) == 0 {
			return nil
		}
		b, err := json.Marshal(values)
		changes = append(changes, instruction+" "+string(b))
		return err
	}
	if err := errors.Join(list("ENTRYPOINT", c.Entrypoint), list("CMD", c.Cmd)); err != nil {
		return nil, err
	}
	for _, env := range c.Env {
		name, value, ok := strings.Cut(env, "=")
		if !ok {
			return nil, fmt.Errorf("environment %q is not NAME=value", env)
		}
		changes = append(changes, "ENV "+name+"="+dockerfileQuote(value))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Labels)) {
		changes = append(changes, "LABEL "+dockerfileQuote(name)+"="+dockerfileQuote(c.Labels[name]))
	}
	for _, port := range c.Expose {
		changes = append(changes, "EXPOSE "+port)
	}
	if c.User != "" {
		changes = append(changes, "USER "+c.User)
	}
	if c.WorkingDir != "" {
		changes = append(changes, "WORKDIR "+c.WorkingDir)
	}
	for _, change := range changes {
		if strings.ContainsAny(change, "\r\n") {
			return nil, fmt.Errorf("line break in %q: an instruction is one line", change)
		}
	}
	return changes, nil
}

// dockerfileQuote keeps the Dockerfile parser from splitting and expanding s.
func dockerfileQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(s) + `"`
}

// message is one of the engine's about its progress.
type message struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Detail struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Error       string `json:"error"`
	ErrorDetail *struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

// readStream reads the engine's progress messages to their end, calling heard
// for each, and returns the error that is among them.
func readStream(stream io.Reader, heard func(message)) error {
	for messages := json.NewDecoder(stream); ; {
		var m message
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.ErrorDetail != nil:
			return streamError(m.ErrorDetail.Message)
		case m.Error != "":
			return streamError(m.Error)
		}
		heard(m)
	}
}

// streamError gives an error from within a stream its kind: it comes with text
// alone, after the status of the response was sent.
func streamError(message string) error {
	for _, sign := range []string{"not found", "does not exist"} {
		if strings.Contains(message, sign) {
			return fmt.Errorf("%w: %s", container.ErrNotFound, message)
		}
	}
	return errors.New(message)
}
