package cli

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func TestWhatDrainRefuses(t *testing.T) {
	owned := func(kind string) []*v1.OwnerReference {
		return []*v1.OwnerReference{{Kind: kind, Controller: proto.Bool(true)}}
	}
	files := []*v1.Volume{{Name: "v", EmptyDir: &v1.EmptyDirVolumeSource{}}}
	for name, tt := range map[string]struct {
		flags *drain
		pod   *v1.Pod
		going bool
		says  string
	}{
		"a pod of a ReplicaSet goes":               {pod: &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: owned("ReplicaSet")}}, going: true},
		"one without a controller is kept":         {pod: &v1.Pod{}, says: "cannot delete cannot delete Pods that declare no controller (use --force to override): n/p"},
		"and goes with --force":                    {flags: &drain{force: true}, pod: &v1.Pod{}, going: true, says: "deleting Pods that declare no controller: n/p"},
		"one with files is kept":                   {pod: &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: owned("ReplicaSet")}, Spec: &v1.PodSpec{Volumes: files}}, says: "cannot delete Pods with local storage (use --delete-emptydir-data to override): n/p"},
		"and goes with --delete-emptydir-data":     {flags: &drain{emptyDirs: true}, pod: &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: owned("ReplicaSet")}, Spec: &v1.PodSpec{Volumes: files}}, going: true, says: "deleting Pods with local storage: n/p"},
		"one of a DaemonSet is kept":               {pod: &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: owned("DaemonSet")}}, says: "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore): n/p"},
		"and left alone with --ignore-daemonsets":  {flags: &drain{daemonSets: true}, pod: &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: owned("DaemonSet")}}, says: "ignoring DaemonSet-managed Pods: n/p"},
		"one that has ended goes, whatever it has": {pod: &v1.Pod{Spec: &v1.PodSpec{Volumes: files}, Status: &v1.PodStatus{Phase: api.PodFailed}}, going: true},
	} {
		if tt.pod.Metadata == nil {
			tt.pod.Metadata = &v1.ObjectMeta{}
		}
		if tt.flags == nil {
			tt.flags = &drain{}
		}
		tt.pod.Metadata.Namespace, tt.pod.Metadata.Name = "n", "p"
		going, forbidden, warnings := tt.flags.choose([]*v1.Pod{tt.pod})
		if says := inWords("cannot delete ", forbidden) + inWords("", warnings); (len(going) == 1) != tt.going || says != tt.says {
			t.Errorf("%s: %v, %q", name, going, says)
		}
	}
}

func TestDrain(t *testing.T) {
	s := begin(t)
	s.stdin = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: node-1, containers: [{name: c, image: i}]}\n"
	s.ok("apply", "-f", "-")
	if out := s.ok("drain", "node-1", "--force", "--dry-run"); !strings.Contains(out, "evicting pod default/p (dry run)\n") {
		t.Error(out)
	}
	if out := s.ok("cordon", "node-1"); out != "node/node-1 cordoned\n" {
		t.Error(out)
	}
}

func TestADrainThatABudgetForbidsSaysWhichWhenItsTimeIsOver(t *testing.T) {
	s := begin(t)
	pod := func(name string) string {
		return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: web}}\nspec: {nodeName: node-1, containers: [{name: c, image: i}]}\n"
	}
	s.stdin = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n" + pod("p") + pod("q") +
		"---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: b}\nspec: {maxUnavailable: 0, selector: {matchLabels: {app: web}}}\n"
	s.ok("apply", "-f", "-")
	for _, name := range []string{"p", "q"} { // as their agent would
		p, err := client.For[*v1.Pod](s.client).Get(t.Context(), "default", name)
		if err != nil {
			t.Fatal(err)
		}
		p = api.Clone(p)
		p.Status.Phase = api.PodRunning
		if _, err := client.For[*v1.Pod](s.client).UpdateStatus(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	_, errs, code := s.run("drain", "node-1", "--force", "--timeout=2s")
	_, last, _ := strings.Cut(errs, "error: unable to drain")
	for _, want := range []string{
		` node "node-1" due to error: [error when evicting pods/"`, `global timeout reached: 2s: `, ", error when evicting pods/",
	} {
		if code != 1 || !strings.Contains(last, want) {
			t.Errorf("%d, no %s in %s", code, want, errs)
		}
	}
}
