package cli

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// revision is that of an object as it is now.
func (s *session) revision(typ, name string) string {
	s.t.Helper()
	return s.ok("get", typ, name, "-o", "jsonpath={.metadata.resourceVersion}")
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it lacks %q:\n%s", p, text)
		}
	}
}

func TestThePastOfADeployment(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	first := s.revision("deployment", "web")
	s.ok("scale", "deployment/web", "--replicas=6")
	s.ok("set", "image", "deployment/web", "app=web:2")
	second := s.revision("deployment", "web")
	s.ok("delete", "deployment", "web")

	if got := s.ok("get", "deployment", "web", "--at", first, "-o", "jsonpath={.spec.replicas}"); got != "3" {
		t.Errorf("at %s: %s replicas", first, got)
	}
	contains(t, s.ok("get", "deployments", "--at", second), "web", "0/6")
	contains(t, s.ok("get", "all", "--at", second, "-o", "yaml"), "image: web:2")
	s.fails(1, `Error from server (NotFound): deployments.apps "web" not found`, "get", "deployment", "web")
	s.fails(1, "Error from server (Expired): the log reaches back to revision 1, of ", "get", "deployments", "--at", "100h")
	s.fails(1, `invalid argument "yesterday" for "--at" flag: "yesterday" is none: give a revision (812), a time`, "get", "pods", "--at", "yesterday")
	s.fails(1, "[at watch] were all set", "get", "pods", "--at", "10m", "-w")

	contains(t, s.ok("history", "deployment/web"), "REVISION", "admin", "Applied", "created",
		"Scaled", "spec.replicas 3 → 6", "ImageSet", "spec.template.spec.containers[app].image web:1 → web:2", "deleted")
	var steps []why.Step
	if err := json.Unmarshal([]byte(s.ok("history", "deployment", "web", "-o", "json", "--limit", "2")), &steps); err != nil || len(steps) != 2 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
	s.fails(1, `deployments.apps "other" not found`, "history", "deployment/other")

	story := s.ok("why", "deployment", "web")
	contains(t, story, "deployment/web is gone\n", "was deleted by user admin: deleted with orchctl",
		"was changed by user admin: scaled to 6 with orchctl (spec.replicas 3 → 6) (rev ", "was created by user admin: applied with orchctl (rev "+first+")")
	if strings.Index(story, "was deleted") > strings.Index(story, "was created") {
		t.Errorf("the newest does not come first:\n%s", story)
	}
	contains(t, s.ok("why", "deployment/web", "--since", second), "image set with orchctl", "was deleted")
	var x why.Explanation
	if err := json.Unmarshal([]byte(s.ok("why", "deployment/web", "-o", "json")), &x); err != nil || len(x.Steps) != 4 || x.Steps[0].Origin != why.User {
		t.Errorf("%+v, %v", x, err)
	}
	s.fails(1, `deployments.apps "other" not found`, "why", "deployment/other")
	s.fails(1, "the log does not tell of revision 99999: it is yet to come", "why", "deployment/web", "--since", "99999")
	s.fails(1, "name one object", "why", "pods")

	replay := s.ok("replay", "--from", first)
	contains(t, replay, "deployment/web was created by user admin", "deployment/web was changed by user admin: scaled to 6", "deployment/web was deleted by user admin")
	if told, begun := regexp.MustCompile(`(?m)^(\S+)  .*was created by user admin`), regexp.MustCompile(`(?m)^\S+`); told.FindStringSubmatch(story)[1] != begun.FindString(replay) {
		t.Errorf("replay and why tell other times of one write:\n%s\n%s", replay, story)
	}
	if only := s.ok("replay", "--from", first, "--to", first, "--speed", "1000x"); strings.Count(only, "\n") != 1 {
		t.Errorf("one revision:\n%s", only)
	}
	if only := s.ok("replay", "--from", second, "--to", second); !strings.Contains(only, "app=web:2 (spec.template.spec.containers[app].image web:1 → web:2)") {
		t.Errorf("what changed is told of the first revision too:\n%s", only)
	}
	s.fails(1, `"fast" is none: give a factor`, "replay", "--from", "1m", "--speed", "fast")
}

func TestATreeBeginsWithTheCauses(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	cause, err := strconv.ParseInt(s.revision("deployment", "web"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "web-1"}, Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "app", Image: "web:1"}}}}
	if _, err := client.For[*v1.Pod](s.client).Create(client.WithTrigger(t.Context(), cause), p); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(s.ok("why", "pod/web-1", "--tree"), "\n")
	if len(lines) < 4 || !strings.Contains(lines[2], "deployment/web was created by user admin") || !strings.HasPrefix(lines[3], "└─ ") || !strings.Contains(lines[3], "pod/web-1 was created") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	contains(t, s.ok("why", "pod/web-1"), "← deployment/web was created by user admin: applied with orchctl (rev "+strconv.FormatInt(cause, 10)+")")
}

func TestDiffComparesThePastAndMasksSecrets(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	s.ok("create", "secret", "generic", "keys", "--from-literal=word=open-sesame", "--from-literal=same=still-the-same")
	before := s.revision("secret", "keys")
	secret := s.file("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {word: close-sesame, same: still-the-same}\n")
	out, errs, code := s.run("diff", "-f", secret)
	if code != 1 {
		t.Errorf("exit code %d: %s", code, errs)
	}
	contains(t, out, "-  word: '*** (before)'", "+  word: '*** (after)'", "   same: '***'")
	s.ok("apply", "-f", secret)
	s.ok("scale", "deployment/web", "--replicas=5")

	out, errs, code = s.run("diff", "--from", before, "--to", s.revision("deployment", "web"))
	if code != 1 {
		t.Errorf("exit code %d: %s", code, errs)
	}
	contains(t, out, "-  replicas: 3", "+  replicas: 5", "+  word: '*** (after)'")
	past := s.ok("history", "secret/keys") + s.ok("why", "secret/keys", "-o", "json") + s.ok("replay", "--from", "1") + out
	for _, word := range []string{"sesame", "b3Blbi1zZXNhbWU", "Y2xvc2Utc2VzYW1l", "still-the-same"} {
		if strings.Contains(past, word) {
			t.Errorf("a Secret's value is shown: %s", word)
		}
	}
	if out, errs, code := s.run("diff", "--from", before, "--to", before, "deployment/web"); code != 0 || out != "" {
		t.Errorf("no time has passed, and yet: exit code %d\n%s%s", code, out, errs)
	}
	s.fails(2, "must specify -f FILE", "diff", "deployment/web")
	s.fails(2, "there was nothing of this at either moment", "diff", "--from", before, "deployment/none")
}

func TestAViewerSeesThePastOfWhatTheyMaySee(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	s.ok("create", "secret", "generic", "keys", "--from-literal=word=open-sesame")
	s.ok("create", "rolebinding", "viewers", "--clusterrole=view", "--user=eve")
	eve := filepath.Join(t.TempDir(), "eve.pem")
	if _, err := s.authority.OpenPair(eve, identity.User{Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	s.flags = append(s.flags, "--client-certificate", eve, "--client-key", eve)
	contains(t, s.ok("why", "deployment/web"), "was created by user admin")
	contains(t, s.ok("history", "deployment/web"), "created")
	replay := s.ok("replay", "--from", "1m", "-n", "default")
	contains(t, replay, "deployment/web was created")
	if strings.Contains(replay, "keys") {
		t.Errorf("a viewer is told of a Secret:\n%s", replay)
	}
	s.fails(1, "Error from server (Forbidden)", "why", "secret/keys")
	s.fails(1, "Error from server (Forbidden)", "history", "secret/keys")
	s.fails(1, "Error from server (Forbidden)", "get", "secret", "keys", "--at", "1s")
	s.fails(2, "Error from server (Forbidden)", "diff", "--from", "1m", "secret/keys")
	s.fails(1, "Error from server (Forbidden): the log is forbidden: User \"eve\" cannot list objects of any kind in all namespaces at once: name one", "replay", "--from", "1m")
	s.fails(2, "Error from server (Forbidden)", "diff", "--from", "1m", "-n", "kube-public", "pods,secrets")
	s.fails(2, "Error from server (Forbidden)", "diff", "--from", "1m", "-n", "kube-public")
	s.fails(1, "the log is forbidden: User \"eve\" cannot list objects of any kind in the namespace \"kube-public\"", "replay", "--from", "1m", "-n", "kube-public")
	s.fails(1, "you need the rights to list pods", "invariants")
}

func TestMoments(t *testing.T) {
	for text, want := range map[string]moment{
		"812":                  {revision: 812},
		"2026-11-22T18:31:02Z": {time: time.Date(2026, 11, 22, 18, 31, 2, 0, time.UTC)},
	} {
		var m moment
		if err := m.Set(text); err != nil || m.revision != want.revision || !m.time.Equal(want.time) {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	for _, text := range []string{"10m", "1h30m ago"} {
		var m moment
		if err := m.Set(text); err != nil || time.Since(m.time) < 10*time.Minute {
			t.Errorf("%s: %+v, %v", text, m, err)
		}
	}
	for _, text := range []string{"", "0", "-5", "-5m", "soon", "2026-11-22"} {
		if err := new(moment).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestATryToComeIsCountedFromNow(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 2, 0, time.UTC)
	for _, c := range []struct{ state, want string }{
		{"waits: back-off 20s; next try at 2026-01-02T03:04:20Z", "waits: back-off 20s; next try in 18s"},
		{"a waits; next try at 2026-01-02T03:04:20Z; b waits; next try at 2026-01-02T03:10:02Z", "a waits; next try in 18s; b waits; next try in 6m"},
		{"waits: back-off 20s; next try at 2026-01-02T03:04:01Z", "waits: back-off 20s; next try at 2026-01-02T03:04:01Z"},
		{"is Running on node-1", "is Running on node-1"},
	} {
		if got := untilNextTry(c.state, now); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestWhyNamesWhatIsWaitedForNow(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	s.pods()
	p, err := client.For[*v1.Pod](s.client).Get(t.Context(), "default", "crashing")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*v1.Event{
		{Metadata: &v1.ObjectMeta{Name: "asked", Namespace: "default"}, Reason: "Unhealthy", Message: "Readiness probe failed: statuscode: 503\n"},
		{Metadata: &v1.ObjectMeta{Name: "other", Namespace: "default"}, Reason: "BackOff", Message: "Back-off"},
	} {
		e.Type, e.InvolvedObject = "Warning", &v1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "crashing", Uid: p.GetMetadata().GetUid()}
		if _, err := client.For[*v1.Event](s.client).Create(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	answer := "Readiness probe failed: statuscode: 503 (0s ago)"
	story := strings.ReplaceAll(s.ok("why", "deployment/web"), "1s ago", "0s ago")
	contains(t, story, "now           pod/crashing is Running on node-1; container app restarted 4×; container app waits: CrashLoopBackOff: "+answer, "now           pod/pending is Pending on node-1\n")
	if strings.Contains(story, "now           pod/ready") || strings.Contains(story, "pod/killed") {
		t.Errorf("it names who is ready, or has ended:\n%s", story)
	}
	contains(t, strings.ReplaceAll(s.ok("why", "pod/crashing"), "1s ago", "0s ago"), "now           "+answer)
	contains(t, s.ok("why", "deployment/web", "-o", "json"), `"now": [`, "pod/pending is Pending on node-1")
}
