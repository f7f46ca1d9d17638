package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"orch/pkg/agent"
	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

const (
	// probed pods have two probes each, with the default period of 10 s, every
	// way to ask as often as the others.
	probed = 500
	// askedFor is how long they are asked in a round.
	askedFor    = 10 * time.Second
	probeRounds = 5

	// serveProbes makes this program the server that is asked, so that its time
	// on the processor is not counted.
	serveProbes         = "serve-probes"
	httpPort, grpcPort  = 17201, 17202
	probeSubnet, prober = "127.44.0.0/16", "nodeagent/bench"
)

// serve answers HTTP, gRPC health and TCP on every address of loopback until
// standard input ends.
func serve() {
	go func() {
		ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		server := http.Server{Addr: fmt.Sprint(":", httpPort), Handler: ok, ReadHeaderTimeout: time.Minute}
		fmt.Fprintln(os.Stderr, server.ListenAndServe())
	}()
	go func() {
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprint(":", grpcPort))
		if err == nil {
			err = server.Serve(l)
		}
		fmt.Fprintln(os.Stderr, err)
	}()
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// simulated hides that a fake engine answers for its containers: the agent
// asks over the network.
type simulated struct{ container.Runtime }

// probes measures what an agent's probes cost beside a loop that puts the same
// questions: processor, goroutines and memory. The containers are simulated and
// have addresses of loopback.
func (b *bench) probes(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.CommandContext(ctx, self, serveProbes)
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { stdin.Close(); _ = server.Wait() }()

	var without, loop, with used
	if err := probeAgent(ctx, false, func() (err error) {
		without = measure(ctx, 1)
		loop, err = probeLoop(ctx) // in a process as large, where garbage is collected as rarely
		return err
	}); err != nil {
		return err
	}
	if err := probeAgent(ctx, true, func() error {
		with = measure(ctx, probeRounds)
		return nil
	}); err != nil {
		return err
	}
	with, loop = with.minus(without), loop.minus(without)
	asked := 2 * probed * askedFor.Seconds() / 10
	perAnswer := func(u used) time.Duration { return time.Duration(float64(u.cpu) / asked) }
	b.rows = append(b.rows, row{
		what: fmt.Sprintf("probes: %d, processor per answer", 2*probed), orch: perAnswer(with).Round(time.Microsecond).String(),
		peer: perAnswer(loop).Round(time.Microsecond).String(), peerName: "a loop that asks the same", ratio: float64(with.cpu) / float64(loop.cpu),
		target: "≤ 1.50", ok: float64(with.cpu) <= 1.5*float64(loop.cpu),
	})
	b.under("probes: all of them", "% of a core", 100*with.cpu.Seconds()/askedFor.Seconds(), 10)
	b.under("probes: goroutines of each", "", float64(with.goroutines)/(2*probed), 1.5)
	b.under("probes: memory of each", "kB", with.memory/(2*probed)/1e3, 32)
	return nil
}

// used is what something costs in a round.
type used struct {
	cpu        time.Duration
	goroutines int
	memory     float64
}

func (u used) minus(v used) used {
	return used{u.cpu - v.cpu, u.goroutines - v.goroutines, u.memory - v.memory}
}

// measure waits out the rounds: the median of the time on the processor, and
// how many goroutines there were when nothing was asked.
func measure(ctx context.Context, rounds int) used {
	var cpu []time.Duration
	goroutines := runtime.NumGoroutine()
	for range rounds {
		begin := ownTime()
		for range askedFor / time.Second {
			settle(ctx, time.Second)
			goroutines = min(goroutines, runtime.NumGoroutine())
		}
		cpu = append(cpu, ownTime()-begin)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{cpu: median(cpu), goroutines: goroutines, memory: float64(m.HeapInuse + m.StackInuse)}
}

// ownTime is the time on a processor that this process has used.
func ownTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// probeAgent runs an agent in this process, with an API server, and then f while
// its pods run, with probes or without.
func probeAgent(ctx context.Context, asked bool, f func() error) (err error) {
	engine := fake.New(fake.Options{Subnet: netip.MustParsePrefix(probeSubnet), Local: func(string) bool { return true }})
	defer engine.Shutdown()
	s := memstore.New()
	defer s.Close()
	server, err := apiserver.New(s, apiserver.Options{})
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var tasks errgroup.Group
	tasks.Go(func() error { return server.ServeInner(context.WithoutCancel(ctx), l) })
	defer func() { server.Stop(); err = errors.Join(err, tasks.Wait()) }()
	c, err := client.Dial(l.Addr().String(), prober)
	if err != nil {
		return err
	}
	defer c.Close()
	system, err := client.For[*v1.Namespace](c).Get(ctx, "", api.NamespaceSystem)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "orch-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	a, err := agent.New(agent.Options{
		NodeName: "bench", ClusterID: system.GetMetadata().GetUid(), Client: c, Runtime: simulated{engine},
		Address: "127.0.0.1", StreamsPort: 1, Capacity: map[string]string{"pods": "1000"}, DataDir: dir,
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	tasks.Go(func() error { return a.Run(running) })
	defer stop()
	pods := client.For[*v1.Pod](c)
	for i := range probed {
		p := pod(fmt.Sprintf("probed-%d", i))
		p.Spec.NodeName, p.Spec.TerminationGracePeriodSeconds = "bench", new(int64)
		if asked {
			app := p.Spec.Containers[0]
			app.LivenessProbe, app.ReadinessProbe = questions(i)
		}
		if _, err := pods.Create(ctx, p); err != nil {
			return err
		}
	}
	ready, err := readyPods(ctx, c, "", "", probed)
	if err != nil {
		return err
	}
	settle(ctx, askedFor) // what the start has left to do
	if err := f(); err != nil {
		return err
	}
	for _, p := range ready {
		if p, err := pods.Get(ctx, api.NamespaceDefault, p.GetMetadata().GetName()); err != nil {
			return err
		} else if !api.IsPodReady(p) || p.GetStatus().GetContainerStatuses()[0].GetRestartCount() > 0 {
			return fmt.Errorf("pod %s was not healthy all the time", p.GetMetadata().GetName())
		}
	}
	stop()
	return ctx.Err()
}

// questions are the two probes of the i-th pod.
func questions(i int) (liveness, readiness *v1.Probe) {
	if i%2 == 0 {
		return &v1.Probe{HttpGet: &v1.HTTPGetAction{Port: api.ParseIntOrString(fmt.Sprint(httpPort))}},
			&v1.Probe{TcpSocket: &v1.TCPSocketAction{Port: api.ParseIntOrString(fmt.Sprint(httpPort))}}
	}
	return &v1.Probe{Grpc: &v1.GRPCAction{Port: grpcPort}}, &v1.Probe{Exec: &v1.ExecAction{Command: []string{"true"}}}
}

// probeLoop measures a goroutine for each question that sleeps and asks.
func probeLoop(ctx context.Context) (used, error) {
	engine := fake.New(fake.Options{Local: func(string) bool { return true }})
	defer engine.Shutdown()
	sandbox, err := engine.CreateSandbox(ctx, container.Sandbox{Name: "asked"})
	if err != nil {
		return used{}, err
	}
	id, err := engine.Create(ctx, container.Config{Name: "asked-app", Image: "img", Sandbox: sandbox.ID})
	if err != nil {
		return used{}, err
	}
	if _, err := engine.Start(ctx, id); err != nil {
		return used{}, err
	}
	address := func(port int) string { return fmt.Sprint("127.44.0.9:", port) }
	fresh := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ways := []func(context.Context) error{
		func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address(httpPort), nil)
			if err != nil {
				return err
			}
			response, err := fresh.Do(request)
			if err != nil {
				return err
			}
			return response.Body.Close()
		},
		func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address(httpPort))
			if err != nil {
				return err
			}
			return conn.Close()
		},
		func(ctx context.Context) error {
			conn, err := grpc.NewClient("passthrough:///"+address(grpcPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		},
		func(ctx context.Context) error {
			_, err := engine.Exec(ctx, id, container.ExecOptions{Command: []string{"true"}})
			return err
		},
	}
	looping, stop := context.WithCancel(ctx)
	defer stop()
	asking, _ := errgroup.WithContext(looping)
	for i := range 2 * probed {
		asking.Go(func() error {
			settle(looping, time.Duration(i)*time.Millisecond) // as pods start, one after the other
			tick := time.NewTicker(10 * time.Second)
			defer tick.Stop()
			for {
				bounded, cancel := context.WithTimeout(looping, time.Second)
				_ = ways[i%len(ways)](bounded) // on a busy machine an answer may be late, as for the agent
				cancel()
				select {
				case <-tick.C:
				case <-looping.Done():
					return nil
				}
			}
		})
	}
	settle(ctx, askedFor)
	u := measure(ctx, probeRounds)
	stop()
	return u, asking.Wait()
}
