package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	v1 "orch/proto/v1"
)

func TestTerminationsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := Terminations{}
		newest := map[string]int32{}
		for i := range rapid.IntRange(0, 60).Draw(t, "ends") {
			name := rapid.SampledFrom([]string{"app", "side", "third"}).Draw(t, "container")
			restart := rapid.Int32Range(0, 30).Draw(t, "restart")
			all.Add(name, Termination{
				ContainerID: fmt.Sprintf("docker://%s-%d", name, restart), RestartCount: restart,
				FinishedAt: time.Unix(int64(i), 0).UTC(), Reason: "Error",
				Message: strings.Repeat("\x01", rapid.IntRange(0, 300).Draw(t, "message")),
				Log:     strings.Repeat("<", rapid.IntRange(0, 512).Draw(t, "log")),
			})
			newest[name] = max(newest[name], restart)
		}
		for name, list := range all {
			if len(list) > KeptTerminations || list[len(list)-1].RestartCount != newest[name] {
				t.Fatalf("%s has %d entries, the last of restart %d; the newest was %d", name, len(list), list[len(list)-1].RestartCount, newest[name])
			}
			for i := 1; i < len(list); i++ {
				if list[i-1].RestartCount >= list[i].RestartCount {
					t.Fatalf("%s is not in order: %v", name, list)
				}
			}
		}
		text := all.String()
		if len(text) > maxTerminations {
			t.Fatalf("%d bytes", len(text))
		}
		if len(all) > 0 && text == "" {
			t.Fatal("nothing was kept")
		}
		read := TerminationsOf(&v1.Pod{Metadata: &v1.ObjectMeta{Annotations: map[string]string{AnnotationTerminations: text}}})
		if again := read.String(); again != text {
			t.Fatalf("what was read is written otherwise:\n%s\n%s", text, again)
		}
	})
}

func TestATerminationThatIsKnownBetterReplacesTheFirst(t *testing.T) {
	all := Terminations{}
	all.Add("app", Termination{ContainerID: "docker://1", Reason: "ContainerStatusUnknown"})
	all.Add("app", Termination{ContainerID: "docker://1", Reason: "Error", ExitCode: 3})
	if got := all["app"]; len(got) != 1 || got[0].ExitCode != 3 {
		t.Errorf("%v", got)
	}
}

func TestAnAnnotationThatCannotBeReadIsNone(t *testing.T) {
	for _, text := range []string{"", "null", "x", `{"app":1}`, `[]`} {
		p := &v1.Pod{Metadata: &v1.ObjectMeta{Annotations: map[string]string{AnnotationTerminations: text}}}
		if got := TerminationsOf(p); got == nil || len(got) != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
	if b, err := json.Marshal(TerminationsOf(&v1.Pod{})); err != nil || string(b) != "{}" {
		t.Errorf("%s, %v", b, err)
	}
}
