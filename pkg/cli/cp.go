package cli

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newCp(f *factory) *cobra.Command {
	var cp copying
	c := &cobra.Command{
		Use: "cp SOURCE DESTINATION", Short: "Copy files and folders to and from containers",
		Long: "Copy files and folders to and from containers. One of the two is a path of this\n" +
			"machine, the other [NAMESPACE/]POD:PATH. The image needs no tar.",
		Example: "  orchctl cp ./settings web-1:/etc/app            # a folder, into or as /etc/app\n" +
			"  orchctl cp shop/web-1:/var/log/app.log app.log -c app",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("source and destination are required")
			}
			return cp.run(c.Context(), f, args[0], args[1])
		},
	}
	c.Flags().StringVarP(&cp.container, "container", "c", "", "which container (default the first)")
	c.Flags().BoolVar(&cp.noPreserve, "no-preserve", false, "keep neither owners nor modes of files")
	return c
}

// copying is one cp.
type copying struct {
	container  string
	noPreserve bool
	f          *factory
}

// fileSpec is a path of this machine, or, with a pod, of a container.
type fileSpec struct{ namespace, pod, path string }

var errFileSpec = errors.New("filespec must match the canonical format: [[namespace/]pod:]file/path")

func parseFileSpec(arg string) (fileSpec, error) {
	pod, file, remote := strings.Cut(arg, ":")
	if !remote {
		return fileSpec{path: arg}, nil
	}
	s := fileSpec{pod: pod, path: file}
	if namespace, name, ok := strings.Cut(pod, "/"); ok {
		s.namespace, s.pod = namespace, name
	}
	if s.pod == "" || strings.Contains(s.pod, "/") {
		return fileSpec{}, errFileSpec
	}
	return s, nil
}

func (cp *copying) run(ctx context.Context, f *factory, from, to string) error {
	source, err := parseFileSpec(from)
	if err != nil {
		return err
	}
	destination, err := parseFileSpec(to)
	switch {
	case err != nil:
		return err
	case source.pod != "" && destination.pod != "":
		return fmt.Errorf("one of src or dest must be a local file specification")
	case source.path == "" || destination.path == "":
		return fmt.Errorf("filepath can not be empty")
	case source.pod == "" && destination.pod == "":
		return fmt.Errorf("one of src or dest must be a remote file specification")
	}
	cl, err := f.client()
	if err != nil {
		return err
	}
	cp.f = f
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, whatever went wrong
	if destination.pod != "" {
		return cp.upload(ctx, cl, source.path, destination)
	}
	return cp.download(ctx, cl, source, destination.path)
}

// request asks for a copy of what is at s.
func (cp *copying) request(ctx context.Context, cl *client.Client, s fileSpec) (*v1.CopyRequest, error) {
	s.namespace = cmp.Or(s.namespace, cp.f.ns())
	pod, err := client.For[*v1.Pod](cl).Get(ctx, s.namespace, s.pod)
	if err != nil {
		return nil, err
	}
	return &v1.CopyRequest{
		Namespace: s.namespace, Pod: s.pod, Path: s.path,
		Container: cp.f.defaultContainer(pod, cp.container, false),
	}, nil
}

func (cp *copying) upload(ctx context.Context, cl *client.Client, source string, to fileSpec) error {
	if _, err := os.Stat(source); err != nil {
		return fmt.Errorf("%s doesn't exist in local filesystem", source)
	}
	source, err := filepath.Abs(source) // "." has a name too
	if err != nil {
		return err
	}
	r, err := cp.request(ctx, cl, to)
	if err != nil {
		return err
	}
	r.Name = filepath.Base(source)
	stream, err := cl.Streams().CopyTo(ctx)
	if err != nil {
		return streamError(ctx, err)
	}
	_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Request{Request: r}}) // Recv says why not
	first, err := stream.Recv()
	if err != nil {
		return streamError(ctx, err)
	}
	err = cp.pack(source, first, writerFunc(func(b []byte) error {
		return stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Data{Data: b}})
	}))
	if err != nil && !errors.Is(err, errEnded) {
		return err // and no end: half an archive is not to look like a whole
	}
	_ = stream.CloseSend()
	if _, err = stream.Recv(); errors.Is(err, io.EOF) {
		return nil
	}
	return streamError(ctx, err)
}

// errEnded says that the receiver has ended the stream; Recv says why.
var errEnded = errors.New("the stream has ended")

// writerFunc sends what is written.
type writerFunc func([]byte) error

func (send writerFunc) Write(b []byte) (int, error) {
	if send(b) != nil {
		return 0, errEnded
	}
	return len(b), nil
}

// pack writes a file or folder as an archive with the root's name and, as if the
// container's user unpacked it, the owner of the destination.
func (cp *copying) pack(source string, to *v1.CopyOutput, w io.Writer) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(source, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(source, at)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		link := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if link, err = os.Readlink(at); err != nil {
				return err
			}
		case !info.IsDir() && !info.Mode().IsRegular():
			fmt.Fprintf(cp.f.Err, "warning: skipping %q: neither a file, a folder nor a link\n", at)
			return nil
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		header.Name = path.Join(to.GetName(), filepath.ToSlash(relative))
		if info.IsDir() {
			header.Name += "/"
		}
		header.Uname, header.Gname, header.ModTime = "", "", time.Now() // as tar -m in kubectl

		if cp.noPreserve || to.GetUid() != 0 { // only root gives files away
			header.Uid, header.Gid = int(to.GetUid()), int(to.GetGid())
		}
		if cp.noPreserve {
			header.Mode &^= 0o7022
		}
		if err := out.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := os.Open(at)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.CopyN(out, file, header.Size)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s became shorter while it was copied", at)
		}
		return err
	})
	if err == nil {
		err = out.Close()
	}
	return err
}

func (cp *copying) download(ctx context.Context, cl *client.Client, from fileSpec, destination string) error {
	r, err := cp.request(ctx, cl, from)
	if err != nil {
		return err
	}
	stream, err := cl.Streams().CopyFrom(ctx)
	if err != nil {
		return streamError(ctx, err)
	}
	_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Request{Request: r}}) // Recv says why not
	_ = stream.CloseSend()
	archive := &streamReader{recv: func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			err = streamError(ctx, err)
		}
		return m.GetData(), err
	}}
	u := unpacking{destination: filepath.Clean(destination), noPreserve: cp.noPreserve, warnings: cp.f.Err}
	return u.run(archive)
}

// streamReader reads the messages of a stream.
type streamReader struct {
	recv func() ([]byte, error)
	rest []byte
}

func (r *streamReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var err error
		if r.rest, err = r.recv(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
