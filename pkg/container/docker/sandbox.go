package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/go-connections/nat"

	"orch/pkg/container"
)

// sandboxPids is plenty for one process without threads, and stops whatever
// else might get into its cgroup.
const sandboxPids = 16

// SandboxRepository is the part before the tag of each image of sandboxes.
const SandboxRepository = "orch-sandbox"

// CreateSandbox creates and starts a pod's sandbox: a container, on Docker's
// default bridge if nothing else is asked for, whose only process sleeps
// (pause.go), which the pod's containers join. What was created is removed again
// when it cannot start.
func (r *Runtime) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	return ask(ctx, r, "create sandbox "+s.Name, func(ctx context.Context, cli *client.Client) (made container.Container, err error) {
		config, host, err := sandboxConfig(s)
		if err != nil {
			return made, err
		}
		id, err := r.createSandbox(ctx, cli, config, host, s.Name)
		if err != nil {
			return made, err
		}
		err = cli.ContainerStart(ctx, id, dockercontainer.StartOptions{})
		if err == nil {
			made, err = inspect(ctx, cli, id)
		}
		if err == nil && s.Bare {
			err = r.awaitBare(ctx, made)
		}
		if err != nil { // also when ctx has ended: the caller never learns the id
			err = errors.Join(err, r.Remove(context.WithoutCancel(ctx), id))
		}
		return made, err
	})
}

// createSandbox creates a container of the sandbox image, and makes that where it
// is missing.
func (r *Runtime) createSandbox(ctx context.Context, cli *client.Client, config *dockercontainer.Config, host *dockercontainer.HostConfig, name string) (string, error) {
	image, err := r.sandboxImage(ctx, cli)
	if err != nil {
		return "", err
	}
	config.Image = image.ref
	created, err := cli.ContainerCreate(ctx, config, host, nil, nil, name)
	// Most often the image is there, so it is not asked for first. It
	// is missing in an engine's life once, and after every prune. Several
	// agents may import it at the same time: they all run the same
	// program, and the last one has the tag.
	if errors.Is(sortError(ctx, "", err), container.ErrNotFound) {
		if _, err := r.ImportImage(ctx, image.ref, image.files, image.config); err != nil {
			return "", err
		}
		created, err = cli.ContainerCreate(ctx, config, host, nil, nil, name)
	}
	return created.ID, err
}

// sandboxImage is the image of sandboxes. Its tag holds a hash of its files, so
// that another version of this program makes another image, and both work on
// one engine.
type sandboxImage struct {
	ref    string
	files  []ImageFile
	config ImageConfig
}

// newSandboxImage puts a program into an image. It runs as nobody in particular
// (the number that Kubernetes' own pause image has). The label is for those who
// look for images to prune.
func newSandboxImage(ref string, program []byte) *sandboxImage {
	return &sandboxImage{
		ref:   ref,
		files: []ImageFile{{Path: "/pause", Mode: 0o755, Content: program}},
		config: ImageConfig{
			Entrypoint: []string{"/pause"},
			User:       fmt.Sprintf("%d:%d", nobody, nobody),
			Labels:     map[string]string{"orch.sandbox": ref},
		},
	}
}

// sandboxImage returns the image for the engine's architecture.
func (r *Runtime) sandboxImage(ctx context.Context, cli *client.Client) (*sandboxImage, error) {
	if known := r.sandbox.Load(); known != nil {
		return known, nil
	}
	version, err := cli.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	program, err := pauseProgram(version.Arch)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(program)
	image := newSandboxImage(SandboxRepository+":"+hex.EncodeToString(hash[:6]), program)
	r.sandbox.Store(image)
	return image, nil
}

// sandboxConfig says what the engine is asked for.
func sandboxConfig(s container.Sandbox) (*dockercontainer.Config, *dockercontainer.HostConfig, error) {
	exposed, bound, err := ports(s.Ports)
	if err != nil {
		return nil, nil, err
	}
	pids := int64(sandboxPids)
	config := &dockercontainer.Config{
		Hostname:     s.Hostname,
		Labels:       s.Labels,
		ExposedPorts: exposed,
	}
	host := &dockercontainer.HostConfig{
		NetworkMode:    "bridge",
		IpcMode:        dockercontainer.IPCModeShareable,
		PortBindings:   bound,
		RestartPolicy:  dockercontainer.RestartPolicy{Name: dockercontainer.RestartPolicyDisabled},
		LogConfig:      dockercontainer.LogConfig{Type: "none"}, // it prints nothing
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{noNewPrivileges},
		Resources: dockercontainer.Resources{
			CgroupParent: s.CgroupParent,
			PidsLimit:    &pids,
		},
	}
	if s.Bare {
		// It begins in the machine's network, because that costs the engine least,
		// and leaves it, and its rights, before anything else (pause.go).
		host.NetworkMode, host.PortBindings, config.ExposedPorts = "host", nil, nil
		host.CapAdd, config.User, config.Cmd = []string{"SYS_ADMIN", "SETUID", "SETGID"}, "0:0", []string{"bare"}
		// To compile a filter of system calls is a fifth of what a start costs. The
		// program makes no others than those in pause.go; and nobody can make it,
		// because the kernel lets nobody trace who has given up rights, but those
		// that may trace anybody.
		host.SecurityOpt = append(host.SecurityOpt, seccompUnconfined)
	}
	if s.HostNetwork {
		config.Hostname, config.ExposedPorts = "", nil // the machine's
		host.NetworkMode, host.PortBindings = "host", nil
	}
	if s.HostIPC {
		host.IpcMode = dockercontainer.IPCModeHost
	}
	for _, h := range s.Hosts {
		host.ExtraHosts = append(host.ExtraHosts, h.Name+":"+h.IP)
	}
	if s.DNS != nil {
		host.DNS, host.DNSSearch, host.DNSOptions = s.DNS.Nameservers, s.DNS.Searches, s.DNS.Options
		// Without a word of these the engine takes the machine's. A dot is no
		// search path, and 1 the resolver's own default.
		if len(host.DNSSearch) == 0 {
			host.DNSSearch = []string{"."}
		}
		if len(host.DNSOptions) == 0 {
			host.DNSOptions = []string{"ndots:1"}
		}
	}
	host.Sysctls = s.Sysctls
	return config, host, nil
}

// ports lists all ports as exposed, and those with a host port as published.
func ports(list []container.Port) (nat.PortSet, nat.PortMap, error) {
	exposed, bound := nat.PortSet{}, nat.PortMap{}
	for _, p := range list {
		protocol := strings.ToLower(cmp.Or(p.Protocol, "TCP"))
		port, err := nat.NewPort(protocol, strconv.Itoa(int(p.ContainerPort)))
		if err != nil {
			return nil, nil, fmt.Errorf("port %d/%s: %w", p.ContainerPort, p.Protocol, err)
		}
		exposed[port] = struct{}{}
		if p.HostPort != 0 {
			bound[port] = append(bound[port], nat.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort))})
		}
	}
	return exposed, bound, nil
}
