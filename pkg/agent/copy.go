package agent

import (
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// CopyTo writes files into a running container.
func (a *Agent) CopyTo(stream v1.Streams_CopyToServer) error {
	return api.ToStatus(a.copyTo(stream))
}

func (a *Agent) copyTo(stream v1.Streams_CopyToServer) error {
	r, spec, c, err := a.copied(stream, func(c lifecycle.Container) bool { return c.Running() })
	if err != nil {
		return err
	}
	// As cp: into a folder that exists, or under the name that is given.
	dir, name := path.Split(path.Clean("/" + r.GetPath()))
	switch mode, err := a.runtime.Stat(stream.Context(), c.ID, r.GetPath()); {
	case err == nil && mode.IsDir():
		dir, name = r.GetPath(), r.GetName()
	case err != nil && !errors.Is(err, container.ErrNoFile):
		return streamError(err)
	}
	uid, gid, err := a.runtime.User(stream.Context(), c.ID)
	if err != nil {
		return streamError(err)
	}
	if err := stream.Send(&v1.CopyOutput{Output: &v1.CopyOutput_Name{Name: name}, Uid: int64(uid), Gid: int64(gid)}); err != nil {
		return err
	}
	archive, w := io.Pipe()
	defer archive.Close() // lets the goroutine go on to Recv, which ends with the call
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				_, err = w.Write(m.GetData())
			}
			if err != nil {
				w.CloseWithError(err) // of io.EOF: the archive's end
				return
			}
		}
	}()
	err = a.runtime.CopyTo(stream.Context(), c.ID, path.Clean("/"+dir), archive)
	if errors.Is(err, container.ErrNoFile) {
		return api.Errorf(api.ErrBadRequest, "%s: no such directory in container %q", path.Clean("/"+dir), c.Name)
	}
	return copyError(err, r.GetPath(), spec)
}

// CopyFrom reads a file or a folder of a container.
func (a *Agent) CopyFrom(stream v1.Streams_CopyFromServer) error {
	return api.ToStatus(a.copyFrom(stream))
}

func (a *Agent) copyFrom(stream v1.Streams_CopyFromServer) error {
	r, spec, c, err := a.copied(stream, func(c lifecycle.Container) bool { return c.State != container.StateCreated })
	if err != nil {
		return err
	}
	w := chunks(func(b []byte) error {
		return stream.Send(&v1.CopyOutput{Output: &v1.CopyOutput_Data{Data: b}})
	})
	err = a.runtime.CopyFrom(stream.Context(), c.ID, path.Clean("/"+r.GetPath()), w)
	return copyError(err, r.GetPath(), spec)
}

// copied reads the request and finds the newest life of the container that will
// do.
func (a *Agent) copied(stream grpc.BidiStreamingServer[v1.CopyInput, v1.CopyOutput], ok func(lifecycle.Container) bool) (*v1.CopyRequest, *v1.Container, lifecycle.Container, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, lifecycle.Container{}, err
	}
	r := first.GetRequest()
	if r.GetPath() == "" {
		return nil, nil, lifecycle.Container{}, api.Errorf(api.ErrBadRequest, "filepath can not be empty")
	}
	pod, spec, err := a.find(r.GetNamespace(), r.GetPod(), r.GetContainer())
	if err != nil {
		return nil, nil, lifecycle.Container{}, err
	}
	for _, c := range slices.Backward(a.observer.Pod(pod.GetMetadata().GetUid())) {
		if c.Name == spec.GetName() && ok(c) {
			return r, spec, c, nil
		}
	}
	return nil, nil, lifecycle.Container{}, api.Errorf(api.ErrBadRequest, "container not found (%q)", spec.GetName())
}

// copyError says what is wrong with a path.
func copyError(err error, name string, in *v1.Container) error {
	switch {
	case errors.Is(err, container.ErrNoFile):
		return api.Errorf(api.ErrBadRequest, "%s: no such file or directory in container %q", name, in.GetName())
	case errors.Is(err, container.ErrReadOnly):
		if m := mountAt(in, path.Clean("/"+name)); m != nil {
			return api.Errorf(api.ErrBadRequest, "%s: volume %q is mounted read-only in container %q, at %s", name, m.GetName(), in.GetName(), m.GetMountPath())
		}
		return api.Errorf(api.ErrBadRequest, "%s: container %q has a read-only root filesystem (securityContext.readOnlyRootFilesystem)", name, in.GetName())
	}
	return streamError(err)
}

// mountAt is the container's mount in which a path is, or nil.
func mountAt(c *v1.Container, name string) (found *v1.VolumeMount) {
	for _, m := range c.GetVolumeMounts() {
		at := path.Clean("/" + m.GetMountPath())
		if (name == at || strings.HasPrefix(name, at+"/")) && len(m.GetMountPath()) > len(found.GetMountPath()) {
			found = m
		}
	}
	return found
}
