package testcluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/internal/testcluster"
	"orch/internal/testlog"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/invariant"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

var onlySeed = flag.Uint64("seed", 0, "simulate this seed alone; 0 is many")

// seeds is how many runs of TestSimulation there are; with -short, a tenth.
const seeds = 100

// A seed decides what the users do and what fails, and when. It does not decide
// which goroutine is first, so that a seed that has failed may have to be run
// some times before it fails again: -count.
func TestSimulation(t *testing.T) {
	first, last := uint64(1), uint64(seeds)
	switch {
	case *onlySeed != 0:
		first, last = *onlySeed, *onlySeed
	case testing.Short():
		last = seeds / 10
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			simulate(t, seed, 3+int(seed%6), 30)
		})
	}
}

func TestSimulationOfHundredsOfAgents(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	simulate(t, max(*onlySeed, 1), 200, 20)
}

// simulation is one run: users who change what they want, and a world in which
// things fail.
type simulation struct {
	*testcluster.Cluster
	t     *testing.T
	nodes int
	disk  *disk

	mu     sync.Mutex // guards random, which engines ask as well
	random *rand.Rand

	wanted map[string]wish // by the name of the Deployment
	healed []func()        // what ends the faults that last
	pauses pauses
	chaos  experiments
}

// wish is what was last answered for a Deployment. Where a write failed, nobody
// knows whether it took place, as long as nobody has looked.
type wish struct {
	replicas int32
	image    string
	unsure   bool
}

func simulate(t *testing.T, seed uint64, nodes, steps int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{Store: memstore.New()}
		s := &simulation{
			Cluster: testcluster.Start(t, testcluster.Options{Nodes: nodes, Store: d, Patience: 20 * time.Minute}),
			t:       t, nodes: nodes, disk: d,
			random: rand.New(rand.NewPCG(seed, 0)), wanted: map[string]wish{},
		}
		s.pauses = pauses{t: t, c: s.Cluster, random: rand.New(rand.NewPCG(seed, 1))}
		s.chaos = experiments{s: s, random: rand.New(rand.NewPCG(seed, 2))}
		stop := s.watch()
		for range steps {
			if s.chance(50) {
				s.use()
			} else {
				s.fail()
			}
			s.pauses.act(10)
			s.chaos.act(12)
			s.sleep(time.Duration(s.n(20_000)) * time.Millisecond)
			if s.chance(25) {
				s.heal()
				s.pauses.end()
			}
		}
		s.heal()
		s.pauses.end()
		s.chaos.end()
		s.settle()
		stop()
		testlog.EveryWriteHasACause(t, s.Client())
	})
}

func (s *simulation) n(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

func (s *simulation) chance(percent int) bool { return s.n(100) < percent }

func (s *simulation) node() *testcluster.Node { return s.Node(s.n(s.nodes)) }

// sleep lets time pass, in which experiments may crash the API server.
func (s *simulation) sleep(d time.Duration) {
	for end := time.After(d); ; {
		select {
		case <-end:
			return
		case down := <-s.Crashes:
			s.restart(down)
		}
	}
}

// restart has the API server away for a while; not where its disk is full, on which
// it could not start.
func (s *simulation) restart(down time.Duration) {
	if s.disk.full.Load() {
		return
	}
	s.StopAPIServer()
	time.Sleep(down)
	s.StartAPIServer()
}

// watch checks the invariants: those of the log after every write, and those of
// the machines ten times in each second.
func (s *simulation) watch() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		v, w := invariant.New(), s.disk.Watch("", 0)
		defer w.Close()
		for {
			entries, err := w.Next(ctx)
			if err != nil {
				return
			}
			for _, e := range entries {
				entry, err := testcluster.Entry(e)
				if err != nil {
					s.t.Error(err)
				}
				for _, broken := range v.Check(entry) {
					if broken.Class == invariant.Safety {
						s.t.Error(broken)
					}
				}
			}
		}
	})
	done.Go(func() {
		for ctx.Err() == nil {
			// An agent sees a process end before its engine says so; here
			// everybody has finished what can be done at this moment.
			synctest.Wait()
			if broken := invariant.Doubles(s.Machines()); len(broken) > 0 {
				s.t.Error(time.Now().Format(time.TimeOnly), broken)
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// use is something that a user does.
func (s *simulation) use() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	deployments, pods := client.For[*v1.Deployment](s.Client()), client.For[*v1.Pod](s.Client())
	name := fmt.Sprintf("app-%d", s.n(4))
	w, exists := s.wanted[name]
	var err error
	switch action := s.n(6); {
	case !exists:
		w = wish{replicas: int32(1 + s.n(6)), image: "web:1"}
		_, err = deployments.Create(ctx, deployment(name, w))
		if errors.Is(err, api.ErrAlreadyExists) { // an earlier try that seemed to fail
			w.unsure, err = true, nil
		}
	case action == 0:
		delete(s.wanted, name)
		if _, err = deployments.Delete(ctx, "default", name, client.DeleteOptions{}); err != nil && !errors.Is(err, api.ErrNotFound) {
			w.unsure = true
			s.wanted[name] = w
		}
		return
	case action < 3:
		w.replicas = int32(s.n(8))
		_, err = deployments.Modify(ctx, "default", name, func(d *v1.Deployment) error {
			d.Spec.Replicas = &w.replicas
			return nil
		})
	case action < 5:
		w.image = fmt.Sprintf("web:%d", 1+s.n(5))
		_, err = deployments.Modify(ctx, "default", name, func(d *v1.Deployment) error {
			d.Spec.Template.Spec.Containers[0].Image = w.image
			return nil
		})
	default:
		list, err := pods.List(ctx, client.ListOptions{Namespace: "default", LabelSelector: "app=" + name})
		if err == nil && len(list.Items) > 0 {
			p := list.Items[s.n(len(list.Items))].GetMetadata()
			_, _ = pods.Delete(ctx, "default", p.GetName(), client.DeleteOptions{Evict: s.chance(50)})
		}
		return
	}
	w.unsure = w.unsure || err != nil
	s.wanted[name] = w
}

func deployment(name string, w wish) *v1.Deployment {
	labels := map[string]string{"app": name}
	return &v1.Deployment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &v1.DeploymentSpec{
			Replicas: &w.replicas,
			Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: labels},
				Spec: &v1.PodSpec{
					TerminationGracePeriodSeconds: proto.Int64(5),
					Containers: []*v1.Container{{
						Name: "app", Image: w.image,
						Resources: &v1.ResourceRequirements{Requests: map[string]string{"cpu": "100m", "memory": "64Mi"}},
					}},
				},
			},
		},
	}
}

// fail is something that goes wrong: for good, where somebody has to mend it, or
// until heal.
func (s *simulation) fail() {
	n := s.node()
	switch s.n(12) {
	case 0: // a process dies
		if running := n.Engine.Peek(map[string]string{lifecycle.LabelKind: lifecycle.KindContainer}); len(running) > 0 {
			_ = n.Engine.Kill(s.t.Context(), running[s.n(len(running))].ID, "SIGKILL")
		}
	case 1: // the sandbox of a pod dies
		if running := n.Engine.Peek(map[string]string{lifecycle.LabelKind: lifecycle.KindSandbox}); len(running) > 0 {
			_ = n.Engine.Kill(s.t.Context(), running[s.n(len(running))].ID, "SIGKILL")
		}
	case 2:
		n.Restart()
	case 3: // an agent dies for longer
		n.Stop()
		s.until(n.Start)
	case 4: // the machine, with all that runs on it
		n.Stop()
		n.Engine.StopEngine(true)
		s.until(func() {
			n.Engine.StartEngine()
			n.Start()
		})
	case 5:
		n.Engine.StopEngine(s.chance(50))
		s.until(n.Engine.StartEngine)
	case 6:
		n.Link.Cut()
		s.until(n.Link.Heal)
	case 7:
		n.Link.Cut(s.n(2))
		s.until(n.Link.Heal)
	case 8:
		n.Link.Delay(time.Duration(s.n(3000))*time.Millisecond, s.n(2))
		s.until(n.Link.Heal)
	case 9:
		n.Link.Reset()
	case 10: // an engine that is slow, and now and then fails
		n.Engine.SetHook(func(ctx context.Context, _, _ string) error {
			select {
			case <-time.After(time.Duration(s.n(3000)) * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
			if s.chance(10) {
				return errors.New("Error response from daemon: no space left on device")
			}
			return nil
		})
		s.until(func() { n.Engine.SetHook(nil) })
	case 11:
		switch {
		case s.disk.full.Load():
		case s.chance(50):
			s.restart(0)
		case s.chance(50):
			s.restart(time.Duration(s.n(120)) * time.Second)
		default:
			s.disk.full.Store(true)
			s.until(func() { s.disk.full.Store(false) })
		}
	}
}

// until remembers how a fault ends.
func (s *simulation) until(heal func()) { s.healed = append(s.healed, heal) }

func (s *simulation) heal() {
	for _, heal := range s.healed {
		heal()
	}
	s.healed = nil
}

// settle waits until the cluster is what was asked for, and no more.
func (s *simulation) settle() {
	s.t.Helper()
	deployments := client.For[*v1.Deployment](s.Client())
	s.Eventually("the API answers", func() bool {
		_, err := deployments.List(s.t.Context(), client.ListOptions{})
		return err == nil
	})
	list, err := deployments.List(s.t.Context(), client.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	kept := map[string]bool{}
	for _, d := range list.Items {
		name := d.GetMetadata().GetName()
		w, asked := s.wanted[name]
		is := wish{replicas: d.GetSpec().GetReplicas(), image: d.GetSpec().GetTemplate().GetSpec().GetContainers()[0].GetImage()}
		if asked && !w.unsure && is != w {
			s.t.Errorf("the answered write of %s is lost: %+v, want %+v", name, is, w)
		}
		kept[name] = true
		s.wanted[name] = is
	}
	for name, w := range s.wanted {
		if !kept[name] && !w.unsure {
			s.t.Errorf("%s, whose creation was answered, is lost", name)
		}
	}
	s.Eventually("the cluster is what was asked for, and no more", func() bool {
		all := 0
		for name := range kept {
			w := s.wanted[name]
			ready := s.Ready("app=" + name)
			for _, p := range ready {
				if p.GetSpec().GetContainers()[0].GetImage() != w.image {
					return false
				}
			}
			if len(ready) != int(w.replicas) {
				return false
			}
			all += len(ready)
		}
		return len(s.Pods("")) == all && s.containersAreOf(s.Pods(""))
	})
}

// containersAreOf says whether the containers of all machines, dead ones and
// sandboxes included, are those of the pods.
func (s *simulation) containersAreOf(pods []*v1.Pod) bool {
	node := map[string]string{}
	for _, p := range pods {
		node[p.GetMetadata().GetUid()] = p.GetSpec().GetNodeName()
	}
	running := map[string]bool{}
	for i := range s.nodes {
		n := s.Node(i)
		for _, x := range n.Engine.Peek(nil) {
			uid := x.Labels[lifecycle.LabelPodUID]
			if node[uid] != n.Name {
				return false
			}
			if x.Labels[lifecycle.LabelKind] == lifecycle.KindContainer && strings.EqualFold(string(x.State), "running") {
				running[uid] = true
			}
		}
	}
	return len(running) == len(pods)
}

func TestWhatHappensWhileTheDiskIsFullIsReportedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{Store: memstore.New()}
		c := testcluster.Start(t, testcluster.Options{Store: d})
		deployed(t, c)
		d.full.Store(true)
		if err := c.Runtime(0).Kill(t.Context(), oneOf(t, c.Node(0)).ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		d.full.Store(false)
		c.Eventually("the restart is in the status", func() bool {
			restarts := int32(0)
			for _, p := range c.Ready("app=web") {
				restarts += p.GetStatus().GetContainerStatuses()[0].GetRestartCount()
			}
			return restarts == 1
		})
	})
}

// disk is a store whose disk can be full.
type disk struct {
	store.Store
	full atomic.Bool
}

func (d *disk) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	if d.full.Load() {
		return store.Entry{}, fmt.Errorf("commit: write orch.db: %w", syscall.ENOSPC)
	}
	return d.Store.Commit(ctx, c)
}
