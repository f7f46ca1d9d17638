//go:build linux

package lab_test

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
	"orch/test/lab"
)

var (
	long = flag.Bool("lab.long", false, "tell the stories of the lab at full length")
	bin  = flag.String("lab.bin", "", "folder with Orch's programs; empty: they are built")
)

func TestStories(t *testing.T) {
	if testing.Short() {
		t.Skip("builds machines")
	}
	t.Parallel()
	c := start(t, lab.Options{Machines: 3, APIServer: []string{"--node-monitor-grace-period=12s"}})
	c.Machines[2].LiveRestore = false // both kinds of engine exist in the wild
	c.do(c.Machines[2].KillEngine())
	c.do(c.Machines[2].StartEngine(t.Context()))

	c.story("a container that is killed is started again, and nothing else is", 6, aContainerIsKilled)
	c.story("an agent that is killed takes up what runs, and what has ended meanwhile", 3, anAgentIsKilled)
	c.story("containers outlive an engine that is killed, where it lets them", 3, anEngineIsKilled)
	c.story("containers that die with their engine are started by the next", 3, anEngineIsKilledWithItsContainers)
	c.story("an engine that hangs is waited for", 3, anEngineHangs)
	c.story("an agent that hangs is replaced, and gives way when it goes on", 6, anAgentHangs)
	c.story("the pods of a machine that is gone run elsewhere, and once when it is back", 6, aMachineIsGone)
	c.story("a machine that is back before others act starts its pods again", 6, aMachineReboots)
	c.story("a machine that the API server does not hear goes on, until others have its pods", 6, cutOffFromTheAPIServer)
	c.story("a machine that only hears is as lost as one that is cut off", 6, cutOffOneWay)
	c.story("machines that do not reach each other need not", 3, cutOffFromTheOthers)
	c.story("a machine that is cut off from all is replaced, and gives way when it is back", 6, cutOffFromAll)
	c.story("a link that loses packets is slow, and no reason to move anything", 3, aLinkLosesPackets)
	if *long {
		c.story("a machine that is heard and hears nothing is as lost", 6, cutOffTheOtherWay)
		c.story("ten minutes of loss on all links, and no processor idle, are no reason either", 6, allLinksLosePackets)
	}
	c.story("an API server that is killed again and again loses nothing", 4, theAPIServerIsKilled)
	c.story("when the API server is cut off from all, nobody is evicted", 6, theAPIServerIsCutOff)
}

func aContainerIsKilled(c *cluster) {
	all, err := c.containers()
	c.do(err)
	var victim found
	for _, f := range all {
		if f.slot != "" {
			victim = f
		}
	}
	check := c.untouched(func(f found) bool { return f.ID != victim.ID })
	_, err = c.Machine(victim.machine).Run(c.Context(), "kill", "-KILL", fmt.Sprint(victim.PID))
	c.do(err)
	c.eventually("it is started again", func() error { return c.restarts(victim.uid, 1) })
	c.settled(6)
	check()
}

func anAgentIsKilled(c *cluster) {
	m := c.Machines[0]
	pod := c.on(m)[0]
	check := c.untouched(func(f found) bool { return f.uid != pod.GetMetadata().GetUid() || f.slot == "" })
	c.do(m.KillAgent())
	_, err := m.Run(c.Context(), "docker", "kill", pod.GetStatus().GetContainerStatuses()[0].GetContainerId()[len("docker://"):])
	c.do(err)
	c.do(m.StartAgent())
	c.eventually("what ended meanwhile is started again", func() error { return c.restarts(pod.GetMetadata().GetUid(), 1) })
	c.settled(3)
	check()
}

func anEngineIsKilled(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(everything)
	c.do(m.KillEngine())
	c.orchctl("wait", "node/"+m.Name, "--for=condition=Ready=False", "--timeout=1m")
	c.do(m.StartEngine(c.Context()))
	c.orchctl("wait", "node/"+m.Name, "--for=condition=Ready", "--timeout=1m")
	c.settled(3)
	check()
}

func anEngineIsKilledWithItsContainers(c *cluster) {
	m := c.Machines[2]
	pods := c.on(m)
	before := pods[0].GetStatus().GetContainerStatuses()[0].GetContainerId()
	check := c.untouched(but(m))
	c.do(m.KillEngine())
	c.orchctl("wait", "node/"+m.Name, "--for=condition=Ready=False", "--timeout=1m")
	c.do(m.StartEngine(c.Context()))
	c.settled(3)
	check()
	now := c.on(m)
	if len(now) != len(pods) || now[0].GetMetadata().GetUid() != pods[0].GetMetadata().GetUid() {
		c.Fatal("an engine that was away for a moment has lost its pods to others")
	}
	if now[0].GetStatus().GetContainerStatuses()[0].GetContainerId() == before {
		c.Error("the container did not die with its engine; so nothing was tried")
	}
}

func anEngineHangs(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(everything)
	c.do(m.Signal("dockerd", syscall.SIGSTOP))
	c.orchctl("wait", "node/"+m.Name, "--for=condition=Ready=False", "--timeout=1m")
	c.do(m.Signal("dockerd", syscall.SIGCONT))
	c.settled(3)
	check()
}

func anAgentHangs(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(but(m))
	c.do(m.Signal("nodeagent", syscall.SIGSTOP))
	c.elsewhere(m, 6)
	c.do(m.Signal("nodeagent", syscall.SIGCONT))
	c.settled(6)
	check()
}

func aMachineIsGone(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(but(m))
	c.do(m.Kill())
	c.elsewhere(m, 6)
	check()
	c.do(m.Boot(c.Context()))
	c.do(m.StartAgent())
	c.settled(6)
	check()
}

func aMachineReboots(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(but(m))
	c.do(m.Kill())
	c.do(m.Boot(c.Context()))
	c.do(m.StartAgent())
	c.settled(6)
	check()
}

func cutOffFromTheAPIServer(c *cluster) {
	c.isLost([]*lab.Machine{c.API}, false)
}

func cutOffOneWay(c *cluster) {
	c.isLost([]*lab.Machine{c.API}, true)
}

// cutOffTheOtherWay lets a machine speak and not hear. TCP needs both, so it is
// lost as well once what it has to say is not acknowledged.
func cutOffTheOtherWay(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(but(m))
	c.do(c.CutOneWay([]*lab.Machine{c.API}, []*lab.Machine{m}))
	c.elsewhere(m, 6)
	check()
	c.do(c.Heal())
	c.settled(6)
	check()
}

func cutOffFromAll(c *cluster) {
	c.isLost(c.Others(c.Machines[0]), false)
}

// isLost cuts the first machine off. Its pods run elsewhere; until it hears of
// that, it runs them too, for nobody can tell it otherwise. Then it gives way.
func (c *cluster) isLost(from []*lab.Machine, oneWay bool) {
	m := c.Machines[0]
	others, own := c.untouched(but(m)), c.untouched(func(f found) bool { return f.machine == m.Name })
	if oneWay {
		c.do(c.CutOneWay([]*lab.Machine{m}, from))
	} else {
		c.do(c.Cut([]*lab.Machine{m}, from))
	}
	c.elsewhere(m, 6)
	own()
	c.do(c.Heal())
	c.settled(6)
	others()
}

func cutOffFromTheOthers(c *cluster) {
	m := c.Machines[0]
	check := c.untouched(everything)
	c.do(c.Cut([]*lab.Machine{m}, c.Machines[1:]))
	c.always("all nodes are Ready", c.allReady)
	c.do(c.Heal())
	c.settled(3)
	check()
}

func aLinkLosesPackets(c *cluster) {
	m := c.Machines[0]
	since := c.ready(m).GetLastTransitionTime().AsTime()
	c.do(c.Lose(20, m))
	c.apply("web", 3, "2")
	c.orchctl("rollout", "status", "deployment/web", "--timeout=3m")
	c.settled(3) // the last of the old pods are gone as well
	check := c.untouched(everything)
	c.always("all nodes are Ready", c.allReady)
	if at := c.ready(m).GetLastTransitionTime().AsTime(); !at.Equal(since) {
		c.Errorf("node %s was not Ready for a while before %v", m.Name, at)
	}
	c.settled(3)
	check()
	c.do(c.Heal())
}

// allLinksLosePackets looks for false alarms.
func allLinksLosePackets(c *cluster) {
	check := c.untouched(everything)
	since := map[*lab.Machine]time.Time{}
	for _, m := range c.Machines {
		since[m] = c.ready(m).GetLastTransitionTime().AsTime()
	}
	for range runtime.NumCPU() {
		c.do(c.API.Start("sh", "-c", "while :; do :; done"))
	}
	defer func() { c.do(c.API.Signal("sh", syscall.SIGKILL)) }()
	c.do(c.Lose(20, append(slices.Clone(c.Machines), c.API)...))
	<-time.After(10 * time.Minute)
	for m, was := range since {
		if r := c.ready(m); r.GetStatus() != api.ConditionTrue || !r.GetLastTransitionTime().AsTime().Equal(was) {
			c.Errorf("false alarm: node %s is Ready=%s since %v", m.Name, r.GetStatus(), r.GetLastTransitionTime().AsTime())
		}
	}
	c.settled(6)
	check()
}

// theAPIServerIsKilled in the middle of rolling updates. What was answered is
// there afterwards, and a Deployment that does not change does not notice.
func theAPIServerIsKilled(c *cluster) {
	c.apply("bystander", 3, "1")
	c.settled(7)
	bystanders := map[string]bool{}
	for uid, p := range c.pods() {
		bystanders[uid] = p.GetMetadata().GetLabels()["app"] == "bystander"
	}
	check := c.untouched(func(f found) bool { return bystanders[f.uid] })
	kills := 5
	if *long {
		kills = 20
	}
	for i := range kills {
		version := fmt.Sprint("killed-", i)
		c.orchctl("create", "configmap", version)
		c.apply("web", 4, version)
		// Each time at another moment: when so many pods of the new version are there.
		c.eventually("the rollout is on its way", func() error {
			fresh := 0
			for _, p := range c.pods() {
				if p.GetMetadata().GetLabels()["version"] == version {
					fresh++
				}
			}
			if fresh < 1+i%4 {
				return fmt.Errorf("%d new pods", fresh)
			}
			return nil
		})
		c.do(c.KillAPIServer())
		c.do(c.StartAPIServer(c.Context()))
		if i%2 == 0 { // else the next update comes before this one has ended
			c.orchctl("rollout", "status", "deployment/web", "--timeout=3m")
		}
	}
	c.orchctl("rollout", "status", "deployment/web", "--timeout=3m")
	c.settled(7)
	check()
	for i := range kills {
		c.orchctl("delete", "configmap", fmt.Sprint("killed-", i)) // which must be there
	}
	for _, p := range c.pods() {
		if v := p.GetMetadata().GetLabels()["version"]; p.GetMetadata().GetLabels()["app"] == "web" && v != fmt.Sprint("killed-", kills-1) {
			c.Errorf("pod %s has version %s", p.GetMetadata().GetName(), v)
		}
	}
}

func theAPIServerIsCutOff(c *cluster) {
	check, before := c.untouched(everything), c.pods()
	undisturbed := func() error {
		for uid, p := range c.pods() {
			if before[uid] == nil || p.GetMetadata().GetDeletionTimestamp() != nil {
				return fmt.Errorf("pod %s was touched", p.GetMetadata().GetName())
			}
		}
		return nil
	}
	await := func(condition string, machines ...*lab.Machine) {
		args := []string{"wait", "--for=condition=" + condition, "--timeout=2m"}
		for _, m := range machines {
			args = append(args, "node/"+m.Name)
		}
		c.orchctl(args...)
	}
	api, late := []*lab.Machine{c.API}, c.Machines[:2]
	c.do(c.Cut(api, c.Machines))
	await("Ready=Unknown", c.Machines...)
	c.always("nobody is evicted", undisturbed)
	// The first that is heard again tells that the others may have been lost for
	// the same reason.
	c.do(c.Heal())
	c.do(c.Cut(api, late))
	await("Ready=True", c.Machines[2])
	c.during(5*time.Second, "nobody is evicted while one after the other comes back", undisturbed)
	c.do(c.Heal())
	c.settled(6)
	c.do(undisturbed())
	check()
}

func TestTwoMachinesOfFiveAreLostAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("builds machines")
	}
	c := start(t, lab.Options{Machines: 5, Fake: true, APIServer: []string{"--node-monitor-grace-period=12s"}})
	c.story("their pods run on the other three", 10, func(c *cluster) {
		lost := c.Machines[:2]
		kept := map[string]bool{}
		for uid, p := range c.pods() {
			kept[uid] = p.GetSpec().GetNodeName() != lost[0].Name && p.GetSpec().GetNodeName() != lost[1].Name
		}
		for _, m := range lost {
			c.do(m.Kill())
		}
		for _, m := range lost {
			c.elsewhere(m, 10)
		}
		for _, m := range lost {
			c.do(m.Boot(t.Context()))
			c.do(m.StartAgent())
		}
		c.settled(10)
		now := c.pods()
		for uid, was := range kept {
			if was && now[uid] == nil {
				t.Errorf("a pod of a machine that was not lost is gone")
			}
		}
	})
}

// elsewhere waits until so many pods are Ready on other machines than this one.
func (c *cluster) elsewhere(lost *lab.Machine, replicas int) {
	c.Helper()
	c.eventually(fmt.Sprintf("%d pods are Ready elsewhere", replicas), func() error {
		ready := 0
		for _, p := range c.pods() {
			if p.GetSpec().GetNodeName() != lost.Name && api.IsPodReady(p) && p.GetMetadata().GetDeletionTimestamp() == nil {
				ready++
			}
		}
		if ready != replicas {
			return fmt.Errorf("%d are", ready)
		}
		return nil
	})
}

func (c *cluster) allReady() error {
	var errs []error
	for _, m := range c.Machines {
		if r := c.ready(m); r.GetStatus() != api.ConditionTrue {
			errs = append(errs, fmt.Errorf("%s: %s", m.Name, r.GetMessage()))
		}
	}
	return errors.Join(errs...)
}

// restarts says that the pod is Ready and its container was restarted so often.
func (c *cluster) restarts(uid string, n int32) error {
	p := c.pods()[uid]
	if p == nil {
		return container.ErrNotFound
	}
	if got := p.GetStatus().GetContainerStatuses()[0].GetRestartCount(); got != n || !api.IsPodReady(p) {
		return fmt.Errorf("restarted %d times; ready: %v", got, api.IsPodReady(p))
	}
	return nil
}
