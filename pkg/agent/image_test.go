package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// password is what nobody may read anywhere.
const password = "open-sesame"

// setLogins makes a Secret that opens the registry for these users.
func (c *cluster) setLogins(name, registry, user, password string) {
	c.t.Helper()
	secrets := client.For[*v1.Secret](c.client)
	o := &v1.Secret{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}, Type: api.SecretDockerConfigJSON,
		Data: map[string][]byte{api.SecretDockerConfigJSONKey: fmt.Appendf(nil, `{"auths": {%q: {"username": %q, "password": %q}}}`, registry, user, password)},
	}
	_, err := secrets.Create(c.t.Context(), o)
	if errors.Is(err, api.ErrAlreadyExists) {
		_, err = secrets.Update(c.t.Context(), o)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func withPullSecrets(names ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for _, name := range names {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, &v1.LocalObjectReference{Name: name})
		}
	}
}

// events are those of a pod, as "Reason message", by the time they began.
func (c *cluster) events(pod string) []string {
	c.t.Helper()
	list, err := client.For[*v1.Event](c.client).List(c.t.Context(), client.ListOptions{Namespace: "default"})
	if err != nil {
		c.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b *v1.Event) int {
		return a.GetFirstTimestamp().AsTime().Compare(b.GetFirstTimestamp().AsTime())
	})
	var out []string
	for _, e := range list.Items {
		if e.GetInvolvedObject().GetName() == pod {
			out = append(out, e.GetReason()+" "+e.GetMessage())
		}
	}
	return out
}

// expectEvent fails unless the pod has an event that begins so.
func (c *cluster) expectEvent(pod, prefix string) {
	c.t.Helper()
	events := c.events(pod)
	if !slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, prefix) }) {
		c.t.Errorf("pod %s has no event %q among\n%s", pod, prefix, strings.Join(events, "\n"))
	}
}

// expectNowhere fails where the text can be read in an event, a pod, a cause or
// the agents' logs.
func (c *cluster) expectNowhere(text string) {
	c.t.Helper()
	for _, kind := range []string{"Event", "Pod", "Node"} {
		for e, err := range c.client.History(c.t.Context(), &v1.HistoryRequest{Kind: kind}) {
			if err != nil {
				c.t.Fatal(err)
			}
			if strings.Contains(e.String(), text) {
				c.t.Errorf("%q can be read in %v", text, e)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(c.log.String(), text) {
		c.t.Errorf("%q can be read in the agents' logs", text)
	}
}

// private is a registry that only user me may use; it remembers who tried.
type private struct {
	mu    sync.Mutex // protects tried
	tried []string
	takes time.Duration
}

func (p *private) pull(ctx context.Context, ref string, o container.PullOptions) error {
	user := "nobody"
	if o.Login != nil {
		user = o.Login.Username
	}
	p.mu.Lock()
	p.tried = append(p.tried, user)
	p.mu.Unlock()
	if o.Login == nil || *o.Login != (container.Login{Username: "me", Password: password}) {
		return fmt.Errorf("unauthorized: %s may not have %s", user, ref)
	}
	return faketest.SlowRegistry(p.takes)(ctx, ref, o)
}

func TestAPrivateImageIsPulledWithTheSecretsOfItsPodInTheirOrder(t *testing.T) {
	registry := &private{}
	bubble(t, fake.Options{Pull: registry.pull}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.setLogins("wrong", "reg.example", "you", password)
		c.setLogins("elsewhere", "other.example", "me", password)
		c.setLogins("right", "reg.example", "me", password)
		c.start("n1", engine)
		c.create(pod("web", withImage("reg.example/team/app:1"), withPullSecrets("none", "wrong", "elsewhere", "right")))
		c.until("web", "ready", running)
		if got, want := fmt.Sprint(registry.tried), "[you me]"; got != want {
			t.Errorf("tried %s, want %s", got, want)
		}
		synctest.Wait()
		c.expectEvent("web", "FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (none); attempting to pull the image may not succeed.")
		c.expectEvent("web", `Pulled Successfully pulled image "reg.example/team/app:1" in 0s (0s including waiting). Image size: 4194304 bytes.`)
		c.expectNowhere(password)
	})
}

func TestTheRightPasswordNeedNotWaitForTheBackOffOfTheWrongOne(t *testing.T) {
	registry := &private{}
	bubble(t, fake.Options{Pull: registry.pull}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.setLogins("login", "reg.example", "me", password+"?")
		c.start("n1", engine)
		c.create(pod("web", withImage("reg.example/app:1"), withPullSecrets("login")))
		p := c.until("web", "refused", waitingFor("ImagePullBackOff"))
		const want = `Back-off pulling image "reg.example/app:1": ErrImagePull: pull reg.example/app:1: unauthorized: me may not have reg.example/app:1`
		if m := status(p, "app").GetState().GetWaiting().GetMessage(); m != want {
			t.Errorf("message %q, want %q", m, want)
		}
		time.Sleep(100 * s) // virtual: tries after 10 s, 30 s, 70 s; the next one after 150 s
		began := time.Now()
		c.setLogins("login", "reg.example", "me", password)
		c.until("web", "ready", running)
		if took := time.Since(began); took > s {
			t.Errorf("took %s", took)
		}
		if len(registry.tried) != 5 {
			t.Errorf("%d pulls, want 5", len(registry.tried))
		}
		synctest.Wait()
		for _, e := range []string{"BackOff Back-off pulling image", "Failed Error: ErrImagePull", "Failed Error: ImagePullBackOff", "Failed Failed to pull image"} {
			c.expectEvent("web", e)
		}
		c.expectNowhere(password)
	})
}

func TestASecretThatCannotBeReadFailsThePullByItsName(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		secret := &v1.Secret{
			Metadata: &v1.ObjectMeta{Name: "login", Namespace: "default"}, Type: api.SecretDockercfg,
			Data: map[string][]byte{api.SecretDockercfgKey: []byte(`{"reg.example": "` + password + `"}`)},
		}
		if _, err := client.For[*v1.Secret](c.client).Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		c.start("n1", engine)
		c.create(pod("web", withImage("reg.example/app:1"), withPullSecrets("login")))
		p := c.until("web", "told", waitingFor("ErrImagePull"))
		if m := status(p, "app").GetState().GetWaiting().GetMessage(); !strings.HasPrefix(m, `secret "login": .dockercfg: the entry of "reg.example" must have`) {
			t.Errorf("message %q", m)
		}
		synctest.Wait()
		c.expectNowhere(password)
	})
}

// Otherwise a pod would get, through another's pull, what it may not have.
func TestAPullIsSharedOnlyByPodsWithTheSameLogins(t *testing.T) {
	registry := &private{takes: 7 * s}
	bubble(t, fake.Options{Pull: registry.pull}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.setLogins("login", "reg.example", "me", password)
		c.start("n1", engine)
		for _, name := range []string{"a", "b"} {
			c.create(pod(name, withImage("reg.example/app:1"), withPullSecrets("login")))
		}
		c.create(pod("stranger", withImage("reg.example/app:1")))
		c.until("stranger", "refused", waitingFor("ErrImagePull"))
		c.until("a", "ready", running)
		c.until("b", "ready", running)
		slices.Sort(registry.tried)
		if got, want := fmt.Sprint(registry.tried), "[me nobody]"; got != want {
			t.Errorf("tried %s, want %s", got, want)
		}
		// What is present is used by everybody, as docs/differences.md says.
		c.until("stranger", "ready", running)
		synctest.Wait()
		c.expectEvent("stranger", `Pulled Container image "reg.example/app:1" already present on machine`)
	})
}

func TestFourImagesArePulledAtATime(t *testing.T) {
	var now, most atomic.Int32
	slow := func(ctx context.Context, ref string, o container.PullOptions) error {
		defer now.Add(-1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		return faketest.SlowRegistry(10*s)(ctx, ref, o)
	}
	bubble(t, fake.Options{Pull: slow}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		began := time.Now()
		c.start("n1", engine)
		for i := range 9 {
			c.create(pod(fmt.Sprint("web-", i), withImage(fmt.Sprint("img:", i))))
		}
		for i := range 9 {
			c.until(fmt.Sprint("web-", i), "ready", running)
		}
		if took := time.Since(began).Round(s); most.Load() != 4 || took != 30*s {
			t.Errorf("%d at a time, %s in all; want 4 and 30s", most.Load(), took)
		}
	})
}

func TestALongPullSaysHowFarItIs(t *testing.T) {
	slow := func(ctx context.Context, ref string, o container.PullOptions) error {
		time.Sleep(s / 20) // so that nothing is reported at the moment when it is told
		for done := range 4 {
			for i := range 100 { // many reports, of which few are told
				o.Progress(container.Progress{Layers: 4, Done: done, Bytes: int64(done*100+i) * 1e5, TotalBytes: 4e7})
				time.Sleep(s / 10)
			}
		}
		return nil
	}
	bubble(t, fake.Options{Pull: slow}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		time.Sleep(21 * s) // virtual
		synctest.Wait()
		c.expectEvent("web", `Pulling Pulling image "img:1": 1 of 4 layers, 19.9 of 40.0 MB`)
		c.until("web", "ready", running)
		synctest.Wait()
		c.expectEvent("web", `Pulled Successfully pulled image "img:1" in 40.05s (40.05s including waiting)`)
		pulling := 0
		for e, err := range c.client.History(t.Context(), &v1.HistoryRequest{Kind: "Event"}) {
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(e.GetObject().GetEvent().GetMessage(), "Pulling") {
				pulling++
			}
		}
		if events := c.events("web"); !slices.Contains(events, `Pulling Pulling image "img:1"`) || pulling > 10 {
			t.Errorf("%d writes, and in the end\n%s", pulling, strings.Join(events, "\n"))
		}
	})
}

func TestANodeShowsItsImagesAndAsksForThemSeldom(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		var asked atomic.Int32
		engine.SetHook(func(_ context.Context, op, _ string) error {
			if op == "Images" {
				asked.Add(1)
			}
			return nil
		})
		engine.AddImage("built:1")
		c.start("n1", engine)
		c.create(pod("web", withImage("reg.example/app:1")))
		c.create(pod("local", withImage("built:1")))
		p := c.until("web", "ready", running)
		if got := status(p, "app").GetImageId(); !strings.HasPrefix(got, "reg.example/app@sha256:") {
			t.Errorf("image id %s", got)
		}
		if got := status(c.until("local", "ready", running), "app").GetImageId(); !strings.HasPrefix(got, "fake://sha256:") {
			t.Errorf("image id %s", got)
		}
		time.Sleep(4 * time.Minute) // virtual
		var shown []string
		for _, i := range c.untilNode("n1", api.ConditionTrue).GetStatus().GetImages() {
			names, _, _ := strings.Cut(fmt.Sprint(i.GetNames()), "@")
			shown = append(shown, fmt.Sprint(names, " ", i.GetSizeBytes()))
		}
		slices.Sort(shown)
		if got, want := fmt.Sprint(shown), "[[built:1] 4194304 [reg.example/app 4194304]"; got != want {
			t.Errorf("shows %s, want %s", got, want)
		}
		if n := asked.Load(); n != 2 { // in the beginning, and after the pull
			t.Errorf("asked %d times within four minutes", n)
		}
		engine.AddImage("built:2")
		time.Sleep(2 * time.Minute)
		if n := len(c.untilNode("n1", api.ConditionTrue).GetStatus().GetImages()); n != 3 {
			t.Errorf("shows %d images after five minutes, want 3", n)
		}
	})
}

func TestAPullThatFailsSaysThatTheImageIsHereAlready(t *testing.T) {
	pulls := 0
	pull := func(context.Context, string, container.PullOptions) error {
		if pulls++; pulls > 1 {
			return errors.New("no such host")
		}
		return nil
	}
	bubble(t, fake.Options{Pull: pull}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		always := func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = api.PullAlways }
		c.start("n1", engine)
		c.create(pod("first", withImage("app:latest"), always))
		c.until("first", "ready", running)
		c.create(pod("second", withImage("app:latest"), always))
		p := c.until("second", "refused", waitingFor("ImagePullBackOff"))
		if m := status(p, "app").GetState().GetWaiting().GetMessage(); !strings.Contains(m, "no such host. An image of this name is on this machine") {
			t.Errorf("message %q", m)
		}
	})
}

func TestAStartThatFailsIsTheSameEventEachTime(t *testing.T) {
	bubble(t, fake.Options{Local: everyImage}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		engine.SetHook(func(_ context.Context, called, id string) error {
			if called == "Start" {
				return errors.New("start container " + id + ": no such device")
			}
			return nil
		})
		c.start("n1", engine)
		c.create(pod("web"))
		c.until("web", "refused", waitingFor("CrashLoopBackOff"))
		synctest.Wait()
		c.expectEvent("web", "Failed Error: start app: start container app: no such device")
	})
}
