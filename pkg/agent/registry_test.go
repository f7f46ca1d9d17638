package agent_test

import (
	"slices"
	"strings"
	"testing"

	"orch/internal/testdocker"
	"orch/internal/testregistry"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// untilEvent waits until the pod has an event that begins so.
func (c *cluster) untilEvent(pod, prefix string) {
	c.t.Helper()
	for e, err := range client.For[*v1.Event](c.client).Watch(c.t.Context(), client.WatchOptions{Namespace: "default", Wait: true}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if e.Object.GetInvolvedObject().GetName() == pod && strings.HasPrefix(e.Object.GetReason()+" "+e.Object.GetMessage(), prefix) {
			return
		}
	}
}

// complaint waits until the pod's container waits for its image, and returns
// why.
func (c *cluster) complaint(pod string) string {
	c.t.Helper()
	p := c.until(pod, "refused", func(p *v1.Pod) bool {
		return slices.Contains([]string{"ErrImagePull", "ImagePullBackOff"}, status(p, "app").GetState().GetWaiting().GetReason())
	})
	return status(p, "app").GetState().GetWaiting().GetMessage()
}

func TestDockerRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for back-offs in real time")
	}
	t.Parallel()
	engine := marked{testdocker.Require(t)}
	me := container.Login{Username: "me", Password: password}

	t.Run("a private image needs its password, which nobody sees", func(t *testing.T) {
		c, registry := newCluster(t), testregistry.Start(t)
		image, _ := registry.Push(engine.Engine, "team/app", "1")
		registry.Require(me)
		c.start("n1", engine)
		c.create(pod("none", withImage(image)))
		if m := c.complaint("none"); !strings.Contains(m, "no basic auth credentials") {
			t.Errorf("without a password: %s", m)
		}
		c.setLogins("login", registry.Address+"/team", "me", password+"!")
		c.create(pod("web", withImage(image), withPullSecrets("login")))
		if m := c.complaint("web"); !strings.Contains(m, "unauthorized") && !strings.Contains(m, "authentication required") {
			t.Errorf("with a wrong password: %s", m)
		}
		c.setLogins("login", registry.Address+"/team", "me", password)
		c.until("web", "ready", running)
		c.untilEvent("web", `Pulled Successfully pulled image "`+image+`" in `)
		c.expectNowhere(password)
	})

	t.Run("one pull serves two pods, and a tag beside a digest does not count", func(t *testing.T) {
		c, registry := newCluster(t), testregistry.Start(t)
		image, byDigest := registry.Push(engine.Engine, "app", "1")
		registry.Hold(true)
		c.start("n1", engine)
		c.create(pod("a", withImage(image)))
		c.create(pod("b", withImage(image)))
		for _, name := range []string{"a", "b"} {
			c.untilEvent(name, "Pulling Pulling image")
		}
		registry.Hold(false)
		c.until("a", "ready", running)
		c.until("b", "ready", running)
		if n := registry.Count("HEAD /v2/app/manifests/1"); n != 1 {
			t.Errorf("the registry was asked %d times for the image of two pods", n)
		}
		_, digest, _ := strings.Cut(byDigest, "@")
		for name, ref := range map[string]string{"by-digest": byDigest, "by-both": strings.Replace(image, ":1", ":other", 1) + "@" + digest} {
			c.create(pod(name, withImage(ref), func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = api.PullAlways }))
			p := c.until(name, "ready", running)
			c.untilEvent(name, "Pulled Successfully pulled image")
			if _, err := engine.Image(t.Context(), ref); err != nil {
				t.Error(err)
			}
			if s := status(p, "app"); s.GetImage() != ref || s.GetImageId() != byDigest {
				t.Errorf("image %s with id %s, want %s with %s", s.GetImage(), s.GetImageId(), ref, byDigest)
			}
		}
		if n := registry.Count("GET /v2/app/blobs/"); n != 2 {
			t.Errorf("%d downloads of an image of a layer and a configuration", n)
		}
	})

	t.Run("an image that is missing is named in the registry's words, and found once it is there", func(t *testing.T) {
		c, registry := newCluster(t), testregistry.Start(t)
		registry.Push(engine.Engine, "late", "other")
		image := registry.Address + "/late:1"
		c.start("n1", engine)
		c.create(pod("web", withImage(image)))
		if m := c.complaint("web"); !strings.Contains(m, "manifest for "+image+" not found") {
			t.Errorf("message %s", m)
		}
		registry.Push(engine.Engine, "late", "1")
		c.until("web", "ready", running)
	})

	t.Run("a slow pull says how far it is, and goes on when the registry died and came back", func(t *testing.T) {
		c, registry := newCluster(t), testregistry.Start(t)
		image, _ := registry.Push(engine.Engine, "slow", "1")
		registry.Hold(true)
		c.start("n1", engine)
		c.create(pod("web", withImage(image)))
		c.untilEvent("web", `Pulling Pulling image "`+image+`": 0 of 1 layers, `)
		registry.Down()
		registry.Hold(false)
		registry.Up()
		c.until("web", "ready", running)
	})

	t.Run("a registry that is away is waited for", func(t *testing.T) {
		c, registry := newCluster(t), testregistry.Start(t)
		image, _ := registry.Push(engine.Engine, "away", "1")
		registry.Down()
		c.start("n1", engine)
		c.create(pod("web", withImage(image)))
		if m := c.complaint("web"); !strings.Contains(m, "connection refused") {
			t.Errorf("message %s", m)
		}
		registry.Up()
		c.until("web", "ready", running)
	})
}
