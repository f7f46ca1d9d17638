package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"orch/examples/webflix"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
	"orch/test/lab"
)

// network measures fifty pods with the native network, beside a bare client that
// asks the engine for the same, and beside Docker Swarm with as many tasks on
// Docker's bridge; and how much two pods of two machines say to each other.
func (b *bench) network(ctx context.Context) error {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "skipped: the native network needs root")
		return nil
	}
	return errors.Join(b.nativeStart(ctx), b.nativeTraffic(ctx))
}

func (b *bench) nativeStart(ctx context.Context) (err error) {
	c, err := b.up(ctx, "--network", "native")
	if err != nil {
		return err
	}
	defer c.down(ctx)
	if _, _, err := c.running(ctx, "first", 1); err != nil {
		return err
	}
	p, err := newPeer(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.clean(ctx) }()
	if p.sandbox, err = c.sandboxImage(ctx, p); err != nil {
		return err
	}
	s, err := newSwarm(ctx, p)
	if err != nil {
		fmt.Fprintln(os.Stderr, "without Docker Swarm:", err)
	} else {
		defer func() { err = errors.Join(err, s.leave(ctx)) }()
	}
	var orchRate, bareRate, swarmRate []float64
	for i := range bulkRounds {
		fmt.Fprintf(os.Stderr, "       %d pods on the native network, round %d of %d ...\n", bulk, i+1, bulkRounds)
		name := fmt.Sprintf("native-%d", i)
		_, took, err := c.running(ctx, name, bulk)
		if err != nil {
			return err
		}
		orchRate = append(orchRate, bulk/took.Seconds())
		if err := c.remove(ctx, name); err != nil {
			return err
		}
		rate, err := p.bulk(ctx, p.barePod)
		if err != nil {
			return err
		}
		bareRate = append(bareRate, rate)
		fmt.Fprintf(os.Stderr, "       orch %.2f/s, bare client %.2f/s\n", orchRate[i], rate)
		if s == nil {
			continue
		}
		if rate, err = s.bulk(ctx); err != nil {
			return err
		}
		swarmRate = append(swarmRate, rate)
		fmt.Fprintf(os.Stderr, "       swarm %.2f/s\n", rate)
	}
	what := fmt.Sprintf("network: %d native pods on 3 agents, apply → Running", bulk)
	b.atLeast(what, median(orchRate), fmt.Sprintf("bare client, %d at once", startConcurrency), median(bareRate), 0.9)
	if s != nil {
		b.atLeast("the same", median(orchRate), "Docker Swarm, bridge", median(swarmRate), 1.3)
	}
	return nil
}

// sandboxImage is that of this cluster's sandboxes: the engine may have others.
func (c *cluster) sandboxImage(ctx context.Context, p *peer) (string, error) {
	system, err := client.For[*v1.Namespace](c.client).Get(ctx, "", api.NamespaceSystem)
	if err != nil {
		return "", err
	}
	list, err := p.cli.ContainerList(ctx, dockercontainer.ListOptions{Filters: filters.NewArgs(
		filters.Arg("label", lifecycle.LabelCluster+"="+system.GetMetadata().GetUid()), filters.Arg("label", lifecycle.LabelKind+"="+lifecycle.KindSandbox))})
	if err != nil || len(list) == 0 {
		return "", errors.Join(errors.New("the cluster has no sandbox"), err)
	}
	return list[0].Image, nil
}

// barePod is what the engine is asked for as a pod of the native network.
func (p *peer) barePod(ctx context.Context) error {
	host := hostConfig("host")
	host.CapDrop, host.CapAdd = []string{"ALL"}, []string{"SYS_ADMIN", "SETUID", "SETGID"}
	host.SecurityOpt, host.ReadonlyRootfs = append(host.SecurityOpt, "seccomp=unconfined"), true
	cfg := &dockercontainer.Config{Image: p.sandbox, Labels: p.labels(), Cmd: []string{"bare"}, User: "0:0"}
	r, err := p.cli.ContainerCreate(ctx, cfg, host, nil, nil, fmt.Sprintf("orch-bench-%d-%d", time.Now().UnixNano(), p.n.Add(1)))
	if err == nil {
		err = p.cli.ContainerStart(ctx, r.ID, dockercontainer.StartOptions{})
	}
	if err == nil {
		_, err = p.join(ctx, r.ID)
	}
	return err
}

// swarmer is the engine as a swarm of one.
type swarmer struct {
	p       *peer
	image   string // by its id: by a name the swarm would ask a registry for it
	gateway bool   // Docker's gateway of swarms was there before
}

const swarmGateway = "docker_gwbridge"

func newSwarm(ctx context.Context, p *peer) (*swarmer, error) {
	info, err := p.cli.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.Swarm.LocalNodeState != swarm.LocalNodeStateInactive {
		return nil, fmt.Errorf("the engine is part of a swarm (%s), which is left alone", info.Swarm.LocalNodeState)
	}
	image, err := p.cli.ImageInspect(ctx, webflix.Image(webflix.Versions[0]))
	if err != nil {
		return nil, err
	}
	_, err = p.cli.NetworkInspect(ctx, swarmGateway, network.InspectOptions{})
	s := &swarmer{p: p, image: image.ID, gateway: err == nil}
	_, err = p.cli.SwarmInit(ctx, swarm.InitRequest{ListenAddr: "127.0.0.1:0", AdvertiseAddr: "127.0.0.1"})
	return s, err
}

func (s *swarmer) leave(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := s.p.cli.SwarmLeave(ctx, true)
	if !s.gateway {
		_ = s.p.cli.NetworkRemove(ctx, swarmGateway) // it may never have been made
	}
	return err
}

// bulk runs a service until all of its tasks run, removes it and them, and returns
// how many were started in a second.
func (s *swarmer) bulk(ctx context.Context) (float64, error) {
	replicas, cli := uint64(bulk), s.p.cli
	spec := swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "orch-bench"},
		Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: s.image, Labels: s.p.labels(), StopGracePeriod: new(time.Duration)},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: "bridge"}},
		},
	}
	begin := time.Now()
	service, err := cli.ServiceCreate(ctx, spec, swarm.ServiceCreateOptions{})
	if err != nil {
		return 0, err
	}
	err = poll(ctx, func() (bool, error) {
		tasks, err := cli.TaskList(ctx, swarm.TaskListOptions{Filters: filters.NewArgs(filters.Arg("service", service.ID), filters.Arg("desired-state", "running"))})
		running := 0
		for _, t := range tasks {
			if t.Status.State == swarm.TaskStateRunning {
				running++
			}
		}
		return running == bulk, err
	})
	took := time.Since(begin)
	err = errors.Join(err, cli.ServiceRemove(context.WithoutCancel(ctx), service.ID))
	if err == nil { // the swarm removes them by itself
		err = poll(ctx, func() (bool, error) {
			list, err := cli.ContainerList(ctx, dockercontainer.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", s.p.label))})
			return len(list) == 0, err
		})
	}
	return bulk / took.Seconds(), err
}

// poll asks twenty times a second.
func poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nativeTraffic measures what goes from a pod to one on another machine of the
// lab, and between two sandboxes on the same machines, which are joined by hand:
// a cable each, and a route.
func (b *bench) nativeTraffic(ctx context.Context) (err error) {
	if err := lab.Missing(); err != nil {
		fmt.Fprintln(os.Stderr, "skipped:", err)
		return nil
	}
	l, err := lab.New(ctx, lab.Options{
		Machines: 2, Bin: b.bin, APIServer: []string{"--cluster-cidr=10.244.0.0/16"}, Agent: []string{"--network=native"},
		Images: buildImages,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if err := l.Up(ctx); err != nil {
		return err
	}
	var pods, hands [2]end
	for i, m := range l.Machines {
		if pods[i], err = labPod(ctx, l, m); err != nil {
			return err
		}
		if hands[i], err = byHand(ctx, m, i, l.Machines[1-i]); err != nil {
			return err
		}
	}
	var orch, peer []float64
	for range trafficRounds {
		for _, m := range []struct {
			ends [2]end
			list *[]float64
		}{{pods, &orch}, {hands, &peer}} {
			rate, err := flow(ctx, m.ends[0], m.ends[1])
			if err != nil {
				return err
			}
			*m.list = append(*m.list, rate/1e6)
		}
	}
	b.atLeast("network: MB from a pod to one on another machine", median(orch), "hand-made routes", median(peer), 0.9)
	return nil
}

// end is one end of a measurement: a process of a machine, whose network it is.
type end struct {
	m   *lab.Machine
	pid int
	ip  string
}

// labPod runs a pod on a machine.
func labPod(ctx context.Context, l *lab.Lab, m *lab.Machine) (end, error) {
	manifest := fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %[1]s}, spec: {nodeName: %[1]s, containers: [{name: app, image: %[2]q}]}}", m.Name, webflix.Image(webflix.Versions[0]))
	if err := l.Apply(ctx, manifest); err != nil {
		return end{}, err
	}
	if _, err := l.Orchctl(ctx, "wait", "--for=condition=Ready", "pod/"+m.Name, "--timeout=1m"); err != nil {
		return end{}, err
	}
	engine, err := m.Engine()
	if err != nil {
		return end{}, err
	}
	defer engine.Close()
	list, err := engine.List(ctx, map[string]string{lifecycle.LabelPodName: m.Name, lifecycle.LabelKind: lifecycle.KindSandbox})
	if err != nil || len(list) != 1 {
		return end{}, errors.Join(fmt.Errorf("%d sandboxes", len(list)), err)
	}
	c, err := engine.Inspect(ctx, list[0].ID)
	if err != nil {
		return end{}, err
	}
	ip, err := l.Orchctl(ctx, "get", "pod", m.Name, "-o", "jsonpath={.status.podIP}")
	return end{m, c.PID, strings.TrimSpace(ip)}, err
}

// byHand joins an empty sandbox to a machine, and that to the other one.
func byHand(ctx context.Context, m *lab.Machine, i int, other *lab.Machine) (end, error) {
	engine, err := m.Engine()
	if err != nil {
		return end{}, err
	}
	defer engine.Close()
	c, err := engine.CreateSandbox(ctx, container.Sandbox{Name: "by-hand", Hostname: "by-hand"})
	if err != nil {
		return end{}, err
	}
	subnet := func(n, last int) string { return fmt.Sprintf("10.99.%d.%d", n, last) }
	for _, line := range []string{
		"ip link add hand type veth peer name hand0 netns PID",
		"ip addr add " + subnet(i, 1) + "/24 dev hand",
		"ip link set hand up",
		"ip route add " + subnet(1-i, 0) + "/24 via " + other.Address,
		"iptables -I FORWARD -j ACCEPT",
		"nsenter -t PID -n ip addr add " + subnet(i, 2) + "/24 dev hand0",
		"nsenter -t PID -n ip link set hand0 up",
		"nsenter -t PID -n ip route add " + subnet(1-i, 0) + "/24 via " + subnet(i, 1),
	} {
		args := strings.Fields(strings.ReplaceAll(line, "PID", strconv.Itoa(c.PID)))
		if _, err := m.Run(ctx, args[0], args[1:]...); err != nil {
			return end{}, err
		}
	}
	return end{m, c.PID, subnet(i, 2)}, nil
}

// flow returns how many bytes go from one end to the other in a second.
func flow(ctx context.Context, from, to end) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	in := func(e end) []string { return []string{"-t", strconv.Itoa(e.pid), "-n", "--", self} }
	taking := to.m.Command(ctx, "nsenter", append(in(to), trafficSink)...)
	says, err := taking.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := taking.Start(); err != nil {
		return 0, err
	}
	defer func() { cancel(); _ = taking.Wait() }()
	if _, err := bufio.NewReader(says).ReadString('\n'); err != nil {
		return 0, err
	}
	text, err := from.m.Run(ctx, "nsenter", append(in(from), trafficSource, to.ip)...)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(text), 64)
}
