//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"orch/internal/testimage"
	"orch/internal/testlog"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Pods reach pods, and machines reach pods, whichever machine they are on: as
// neighbours by routes, and where packets are packed into packets.
func TestPodsReachEachOtherAcrossMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("builds machines with engines, twice")
	}
	t.Parallel()
	for _, routes := range []string{"host-gw", "vxlan"} {
		t.Run(routes, func(t *testing.T) {
			const image = "testimage"
			l := build(t, Options{
				Machines: 3, APIServer: []string{"--cluster-cidr=10.244.0.0/16"}, Agent: []string{"--network=native", "--network-routes=" + routes},
				Images: func(ctx context.Context, m *Machine) error {
					engine, err := m.Engine()
					if err != nil {
						return err
					}
					defer engine.Close()
					return testimage.Import(ctx, engine, image)
				},
			})
			if err := l.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := l.Client()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// What a pod says does not fit into one packet.
			says := func(m *Machine) string { return m.Name + " says " + strings.Repeat("a lot ", 3000) }
			for _, m := range l.Machines {
				if err := l.Apply(t.Context(), fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: %[2]s
    imagePullPolicy: Never
    args: [-listen, ":8080", -reply, %[3]q]
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
`, m.Name, image, says(m))); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := l.Orchctl(t.Context(), "wait", "--for=condition=Ready", "pod", "--all", "--timeout=1m"); err != nil {
				t.Fatal(err)
			}
			pods := map[*Machine]*v1.Pod{}
			for _, m := range l.Machines {
				if pods[m], err = client.For[*v1.Pod](c).Get(t.Context(), "default", m.Name); err != nil {
					t.Fatal(err)
				}
			}
			everybodyReachesEverybody := func() {
				t.Helper()
				for _, from := range l.Machines {
					browser := &http.Client{Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}}
					for _, to := range l.Machines {
						url := fmt.Sprintf("http://%s:8080/", pods[to].GetStatus().GetPodIp())
						if got, err := fetch(t.Context(), browser, url); err != nil || got != says(to) {
							t.Errorf("from machine %s to the pod on %s: %.50q, %v", from.Name, to.Name, got, err)
						}
						got, err := l.Orchctl(t.Context(), "exec", from.Name, "--", testimage.Path, "-get", url, "-exit", "0")
						if err != nil || strings.TrimSpace(got) != strings.TrimSpace(says(to)) {
							t.Errorf("from the pod on %s to the one on %s: %.50q, %v", from.Name, to.Name, got, err)
						}
					}
				}
			}
			everybodyReachesEverybody()
			testlog.Invariants(t, c, 0, 3)
			if routes != "host-gw" {
				return // the rest has nothing to do with the way
			}

			// Who is no member has no way back to a pod: it sees the machine.
			var outside net.Listener
			if err := l.API.inside(func() (err error) {
				outside, err = net.Listen("tcp", net.JoinHostPort(l.API.Address, "80"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })}
			go func() { _ = server.Serve(outside) }()
			defer server.Close()
			m1, m2, m3 := l.Machines[0], l.Machines[1], l.Machines[2]
			seen, err := l.Orchctl(t.Context(), "exec", m1.Name, "--", testimage.Path, "-get", "http://"+l.API.Address+"/", "-exit", "0")
			if host, _, _ := net.SplitHostPort(strings.TrimSpace(seen)); host != m1.Address || err != nil {
				t.Errorf("outside a pod is seen as %q, %v", seen, err)
			}

			// An agent is only needed for what changes.
			if err := m2.KillAgent(); err != nil {
				t.Fatal(err)
			}
			reaches := func(m *Machine) error {
				_, err := fetch(t.Context(), &http.Client{Transport: &http.Transport{DialContext: m1.Dial, DisableKeepAlives: true}}, fmt.Sprintf("http://%s:8080/", pods[m].GetStatus().GetPodIp()))
				return err
			}
			if err := reaches(m2); err != nil {
				t.Errorf("while its agent is away: %v", err)
			}
			if err := m2.StartAgent(); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Orchctl(t.Context(), "wait", "--for=condition=Ready", "node/"+m2.Name, "--timeout=1m"); err != nil {
				t.Error(err)
			}
			everybodyReachesEverybody()
			after, err := client.For[*v1.Pod](c).Get(t.Context(), "default", m2.Name)
			before := pods[m2].GetStatus()
			if s := after.GetStatus(); err != nil || s.GetPodIp() != before.GetPodIp() || s.GetContainerStatuses()[0].GetContainerId() != before.GetContainerStatuses()[0].GetContainerId() {
				t.Errorf("the new agent has touched the pod: %v, %v", s, err)
			}

			// A node that is no more has no route.
			route := func() string {
				out, err := m1.Run(t.Context(), "ip", "route")
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			node, err := client.For[*v1.Node](c).Get(t.Context(), "", m3.Name)
			if err != nil || !strings.Contains(route(), node.GetSpec().GetPodCidr()) {
				t.Fatalf("the routes of %s, %v:\n%s", m1.Name, err, route())
			}
			if _, err := l.Orchctl(t.Context(), "delete", "node", m3.Name); err != nil {
				t.Fatal(err)
			}
			if err := eventually(func() error {
				if strings.Contains(route(), node.GetSpec().GetPodCidr()) {
					return fmt.Errorf("there is still a route to %s:\n%s", m3.Name, route())
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			testlog.Invariants(t, c, 0, 2)
		})
	}
}

// fetch gets a page.
func fetch(ctx context.Context, browser *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := browser.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}
