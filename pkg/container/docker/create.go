package docker

import (
	"context"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

const (
	// cpuPeriod is the kernel's default for CPU quotas, in microseconds, and
	// the one that container.Resources counts in.
	cpuPeriod = 100_000
	// minCPUQuota is the least that the kernel takes; the kubelet raises
	// smaller quotas to it as well.
	minCPUQuota = 1_000

	noNewPrivileges   = "no-new-privileges"
	seccompUnconfined = "seccomp=unconfined"
)

// logConfig keeps what a container prints within 30 MB. Docker's own default
// for this driver has no limit, so that one chatty container fills the disk of
// a laptop. The kubelet turns the files at the same size and keeps 5 of them.
// The driver is named although it is the default, because the engine may have
// been given another one, such as syslog, from which logs cannot be read back.
var logConfig = dockercontainer.LogConfig{
	Type:   "json-file",
	Config: map[string]string{"max-size": "10m", "max-file": "3"},
}

// Create creates a container joined to c.Sandbox and returns its id.
func (r *Runtime) Create(ctx context.Context, c container.Config) (string, error) {
	return ask(ctx, r, "create container "+c.Name, func(ctx context.Context, cli *client.Client) (string, error) {
		config, host := containerConfig(c)
		if r.unprotecting.Load() {
			host.OomScoreAdj = max(0, host.OomScoreAdj)
		}
		created, err := cli.ContainerCreate(ctx, config, host, nil, nil, c.Name)
		return created.ID, err
	})
}

// containerConfig says what the engine is asked for. The engine takes an
// Entrypoint to replace the image's, and to drop its Cmd; a Cmd alone replaces
// the image's Cmd. These are just the rules of Command and Args.
func containerConfig(c container.Config) (*dockercontainer.Config, *dockercontainer.HostConfig) {
	config := &dockercontainer.Config{
		Image:      c.Image,
		Entrypoint: c.Command,
		Cmd:        c.Args,
		Env:        c.Env,
		WorkingDir: c.WorkingDir,
		Labels:     c.Labels,
		OpenStdin:  c.Stdin,
		Tty:        c.TTY,
		User:       c.Security.User,
	}
	sandbox := "container:" + c.Sandbox
	noInit := false
	host := &dockercontainer.HostConfig{
		// The network also brings the sandbox's hostname and resolv.conf.
		NetworkMode:   dockercontainer.NetworkMode(sandbox),
		IpcMode:       dockercontainer.IpcMode(sandbox),
		RestartPolicy: dockercontainer.RestartPolicy{Name: dockercontainer.RestartPolicyDisabled},
		LogConfig:     logConfig,
		// Also where the engine's default differs: process 1 is the image's
		// own, as in Kubernetes.
		Init:      &noInit,
		Resources: resources(c),
	}
	switch c.PID {
	case container.PIDHost:
		host.PidMode = "host"
	case container.PIDSandbox:
		host.PidMode = dockercontainer.PidMode(sandbox)
	}
	if c.HostIPC {
		host.IpcMode = dockercontainer.IPCModeHost
	}
	host.OomScoreAdj = c.Resources.OOMScore
	for _, m := range c.Mounts {
		if m.MakeSource && !strings.Contains(m.Source+m.Target, ":") {
			// Only the older form, which colons divide, makes the source
			// (engines from API 1.42 on know a word for it).
			bind := m.Source + ":" + m.Target
			if m.ReadOnly {
				bind += ":ro"
			}
			host.Binds = append(host.Binds, bind)
			continue
		}
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	secure(host, c.Security)
	return config, host
}

// secure says what the container may do. The engine knows no profile of system
// calls by the name "default": not to name one is to have it.
func secure(host *dockercontainer.HostConfig, s container.Security) {
	host.Privileged = s.Privileged
	host.ReadonlyRootfs = s.ReadOnlyRootFS
	host.CapAdd, host.CapDrop = s.CapAdd, s.CapDrop
	for _, g := range s.Groups {
		host.GroupAdd = append(host.GroupAdd, strconv.FormatInt(g, 10))
	}
	if !s.NewPrivileges {
		host.SecurityOpt = append(host.SecurityOpt, noNewPrivileges)
	}
	if s.Unconfined {
		host.SecurityOpt = append(host.SecurityOpt, seccompUnconfined)
	}
}

// resources translates c.Resources. Memory and swap together get the same
// limit as memory alone, which means no swap: a limit that can be evaded by
// swapping would be no limit, and the node's capacity is counted without swap.
func resources(c container.Config) dockercontainer.Resources {
	res := dockercontainer.Resources{CgroupParent: c.CgroupParent, CPUShares: max(0, c.Resources.CPUShares)}
	if c.Resources.CPUQuota > 0 {
		res.CPUPeriod = cpuPeriod
		res.CPUQuota = max(c.Resources.CPUQuota, minCPUQuota)
	}
	if c.Resources.PIDs > 0 {
		res.PidsLimit = &c.Resources.PIDs
	}
	if c.Resources.MemoryBytes > 0 {
		res.Memory = c.Resources.MemoryBytes
		res.MemorySwap = c.Resources.MemoryBytes
	}
	return res
}

// Start starts a created container and returns it as it then is.
func (r *Runtime) Start(ctx context.Context, id string) (container.Container, error) {
	return ask(ctx, r, "start container "+id, func(ctx context.Context, cli *client.Client) (container.Container, error) {
		if err := cli.ContainerStart(ctx, id, dockercontainer.StartOptions{}); err != nil {
			return container.Container{}, err
		}
		return inspect(ctx, cli, id)
	})
}

// Stop asks the container to end, makes it after grace (the engine counts whole
// seconds: grace is rounded up), and returns when it has ended.
func (r *Runtime) Stop(ctx context.Context, id string, grace time.Duration) error {
	return r.doWithin(ctx, grace+requestTimeout, "stop container "+id, func(ctx context.Context, cli *client.Client) error {
		if grace > 0 {
			seconds := int((grace + time.Second - 1) / time.Second)
			return cli.ContainerStop(ctx, id, dockercontainer.StopOptions{Timeout: &seconds})
		}
		// The engine's stop with no time at all still sends the stop
		// signal first.
		if err := unless("is not running", cli.ContainerKill(ctx, id, "SIGKILL")); err != nil {
			return err
		}
		return wait(ctx, cli, id, dockercontainer.WaitConditionNotRunning)
	})
}

// Kill sends one signal.
func (r *Runtime) Kill(ctx context.Context, id, signal string) error {
	return r.do(ctx, "kill container "+id, func(ctx context.Context, cli *client.Client) error {
		return cli.ContainerKill(ctx, id, signal)
	})
}

// Pause freezes a container's processes.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.do(ctx, "pause container "+id, func(ctx context.Context, cli *client.Client) error {
		return unless("already paused", cli.ContainerPause(ctx, id))
	})
}

// Unpause lets them go on.
func (r *Runtime) Unpause(ctx context.Context, id string) error {
	return r.do(ctx, "unpause container "+id, func(ctx context.Context, cli *client.Client) error {
		return unless("is not paused", cli.ContainerUnpause(ctx, id))
	})
}

// unless is an error of the engine's, but for the refusal that says these words.
func unless(words string, err error) error {
	if err != nil && strings.Contains(err.Error(), words) {
		return nil
	}
	return err
}

// Remove removes the container with its anonymous volumes, by force when it
// runs, and returns when its name is free again.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	return r.do(ctx, "remove container "+id, func(ctx context.Context, cli *client.Client) error {
		err := cli.ContainerRemove(ctx, id, dockercontainer.RemoveOptions{Force: true, RemoveVolumes: true})
		if cerrdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress") {
			err = wait(ctx, cli, id, dockercontainer.WaitConditionRemoved)
		}
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// Wait returns the container once it does not run any more. It has no limit
// but ctx.
func (r *Runtime) Wait(ctx context.Context, id string) (container.Container, error) {
	cli, err := r.client(ctx)
	if err == nil {
		err = wait(ctx, cli, id, dockercontainer.WaitConditionNotRunning)
	}
	var ended container.Container
	if err == nil {
		ended, err = inspect(ctx, cli, id)
	}
	return ended, sortError(ctx, "wait for container "+id, err)
}

// wait blocks until the engine says that the condition holds. It does not look
// at ctx itself: the request ends with it, and the goroutine that reads the
// answer is left only when it has been heard.
func wait(ctx context.Context, cli *client.Client, id string, condition dockercontainer.WaitCondition) error {
	result, failed := cli.ContainerWait(ctx, id, condition)
	select {
	case <-result:
		return nil
	case err := <-failed:
		return err
	}
}
