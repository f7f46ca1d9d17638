package docker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/container"
)

// TestIsolation sees from inside what can be seen, and asks the engine for what
// not every machine allows.
func TestIsolation(t *testing.T) {
	engine := testdocker.Require(t)
	p := pods{engine, testimage.Build(t, engine)}
	raw, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.NegotiateAPIVersion(t.Context())
	// hostConfig is what the engine remembers of a container that it has made.
	hostConfig := func(t *testing.T, config container.Config) *dockercontainer.HostConfig {
		t.Helper()
		id, err := engine.Create(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		inspected, err := raw.ContainerInspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return inspected.HostConfig
	}
	sandboxOf := func(t *testing.T, name string, s container.Sandbox) container.Container {
		t.Helper()
		s.Name = engine.Name(name)
		made, err := engine.CreateSandbox(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	plain := p.sandbox(t, "plain")

	t.Run("a container runs as the user and in the groups that it is to", func(t *testing.T) {
		config := p.config("user", plain.ID, "-id", "-exit", "0")
		config.Security = container.Security{User: "1000:2000", Groups: []int64{3000, 4000}}
		if got := p.finished(t, config); got != "1000:2000:2000,3000,4000\n" && got != "1000:2000:3000,4000\n" {
			t.Errorf("it is %q", got)
		}
	})
	t.Run("a root file system can be made read-only", func(t *testing.T) {
		config := p.config("writer", plain.ID, "-write", "/file", "-exit", "0")
		config.Security.ReadOnlyRootFS = true
		if got := p.finished(t, config); got != "read-only file system\n" {
			t.Errorf("writing: %q", got)
		}
	})
	t.Run("the kernel shows no more capabilities, and no new privileges, unless they are asked for", func(t *testing.T) {
		for name, tt := range map[string]struct {
			security container.Security
			want     string
		}{
			"nothing":   {container.Security{}, "00000000a80425fb 1 2"}, // Docker's default set
			"dropped":   {container.Security{CapDrop: []string{"ALL"}, CapAdd: []string{"CHOWN"}, NewPrivileges: true}, "0000000000000001 0 2"},
			"unguarded": {container.Security{Unconfined: true}, "00000000a80425fb 1 0"},
		} {
			config := p.config(name, plain.ID, "-print", "/proc/self/status", "-exit", "0")
			config.Security = tt.security
			seen := map[string]string{}
			for line := range strings.Lines(p.finished(t, config)) {
				key, value, _ := strings.Cut(line, ":")
				seen[key] = strings.TrimSpace(value)
			}
			if got := seen["CapBnd"] + " " + seen["NoNewPrivs"] + " " + seen["Seccomp"]; got != tt.want {
				t.Errorf("%s: capabilities, no new privileges, seccomp are %s, want %s", name, got, tt.want)
			}
		}
	})
	t.Run("privileges reach the engine", func(t *testing.T) {
		config := p.config("privileged", plain.ID)
		config.Security = container.Security{Privileged: true, NewPrivileges: true, CapAdd: []string{"SYS_RESOURCE"}}
		config.PID, config.HostIPC = container.PIDHost, true
		host := hostConfig(t, config)
		got := []any{host.Privileged, host.PidMode.IsHost(), host.IpcMode.IsHost(), strings.TrimPrefix(strings.Join(host.CapAdd, " "), "CAP_")}
		if diff := cmp.Diff([]any{true, true, true, "SYS_RESOURCE"}, got); diff != "" {
			t.Error(diff)
		}
		for _, o := range host.SecurityOpt {
			if o == "no-new-privileges" {
				t.Error("a privileged container gets no new privileges")
			}
		}
	})
	t.Run("names, resolver and kernel parameters are the pod's", func(t *testing.T) {
		sandbox := sandboxOf(t, "network", container.Sandbox{
			Hosts:   []container.Host{{IP: "10.1.2.3", Name: "db.local"}},
			DNS:     &container.DNS{Nameservers: []string{"10.1.2.4"}},
			Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"},
		})
		for file, want := range map[string]string{
			"/etc/hosts":       "10.1.2.3\tdb.local\n",
			"/etc/resolv.conf": "nameserver 10.1.2.4\noptions ndots:1\n",
			"/proc/sys/net/ipv4/ip_unprivileged_port_start": "80\n",
		} {
			config := p.config("reader"+strings.ReplaceAll(file, "/", "-"), sandbox.ID, "-print", file, "-exit", "0")
			if got := p.finished(t, config); !strings.Contains(got, want) || strings.Contains(got, "search") {
				t.Errorf("%s: %q, want %q in it", file, got, want)
			}
		}
	})
	t.Run("the machine's network and memory", func(t *testing.T) {
		sandbox := sandboxOf(t, "host", container.Sandbox{HostNetwork: true, HostIPC: true, Hostname: "nobody", Ports: []container.Port{{ContainerPort: 80, HostPort: 80}}})
		if sandbox.IP != "" {
			t.Errorf("it has the address %s", sandbox.IP)
		}
		inspected, err := raw.ContainerInspect(t.Context(), sandbox.ID)
		if err != nil {
			t.Fatal(err)
		}
		if host := inspected.HostConfig; !host.NetworkMode.IsHost() || !host.IpcMode.IsHost() || inspected.Config.Hostname == "nobody" {
			t.Errorf("%+v", host)
		}
		visitor := p.config("local", sandbox.ID, "-exit", "0")
		visitor.HostIPC = true
		if got := p.finished(t, visitor); got != "" {
			t.Errorf("it prints %q", got)
		}
	})
	t.Run("processes of a pod see each other, and its first one is an init", func(t *testing.T) {
		sandbox := sandboxOf(t, "shared-pid", container.Sandbox{})
		config := p.config("peer", sandbox.ID, "-print", "/proc/1/comm", "-exit", "0")
		config.PID = container.PIDSandbox
		if got := p.finished(t, config); got != "pause\n" {
			t.Errorf("process 1 is %q", got)
		}
		// What ends with a shared process namespace is seen to end as well.
		other := p.config("other", sandbox.ID)
		other.PID = container.PIDSandbox
		running := p.start(t, other)
		p.awaitReady(t, running.ID)
		ended := engine.Exited(t.Context(), running)
		if err := engine.Kill(t.Context(), running.ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		if ended != nil {
			<-ended
		}
	})
	t.Run("what a container has forked away ends with it", func(t *testing.T) {
		for _, shared := range []bool{false, true} {
			name := fmt.Sprintf("shared-%t", shared)
			sandbox := sandboxOf(t, "forks-"+name, container.Sandbox{})
			config := p.config("father-"+name, sandbox.ID, "-fork", "127.0.0.1:8081")
			visitor := p.config("before-"+name, sandbox.ID, "-get", "http://127.0.0.1:8081/", "-exit", "0")
			if shared {
				config.PID = container.PIDSandbox
			}
			father := p.start(t, config)
			p.awaitReady(t, father.ID)
			if got := p.finished(t, visitor); got != "hello\n" {
				t.Fatalf("%s: while it lives: %q", name, got)
			}
			if err := engine.Stop(t.Context(), father.ID, time.Minute); err != nil {
				t.Fatal(err)
			}
			// Nobody holds the port any more.
			heir := p.start(t, p.config("heir-"+name, sandbox.ID, "-listen", "127.0.0.1:8081"))
			p.awaitReady(t, heir.ID)
		}
	})
}
