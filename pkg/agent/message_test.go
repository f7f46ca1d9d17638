package agent_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// lastWords writes to the container's termination log and ends.
func lastWords(words string, code int) fake.Program {
	return func(_ context.Context, p *fake.Process) int {
		path, err := p.Path("/dev/termination-log", true)
		if err == nil {
			err = os.WriteFile(path, []byte(words), 0o600)
		}
		if err != nil {
			return 99
		}
		_, _ = p.Stdout.Write([]byte("a line of its log\n"))
		return code
	}
}

func withMessages(policy string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].TerminationMessagePolicy = policy }
}

func TestMessageOfTheEnd(t *testing.T) {
	tests := []struct {
		name, policy, words string
		code                int
		want                string
	}{
		{"what the container wrote", "File", "out of luck", 1, "out of luck"},
		{"with code 0 too", "File", "all is done", 0, "all is done"},
		{"nothing", "File", "", 1, ""},
		{"the log, where it failed without a word", "FallbackToLogsOnError", "", 1, "a line of its log\n"},
		{"not where it succeeded", "FallbackToLogsOnError", "", 0, ""},
		{"nor where it said something", "FallbackToLogsOnError", "out of luck", 1, "out of luck"},
		{"at most 4096 bytes", "File", strings.Repeat("x", 5000), 1, strings.Repeat("x", 4096)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fake.Options{Program: lastWords(test.words, test.code)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				n := c.start("n1", engine)
				c.create(pod("job", withPolicy("Never"), withMessages(test.policy)))
				said := func(p *v1.Pod) bool {
					return api.IsPodTerminal(p) && status(p, "app").GetState().GetTerminated().GetMessage() == test.want
				}
				c.until("job", "told of its end", said)
				n.kill()
				c.start("n1", engine)
				c.until("job", "as it was", said)
			})
		})
	}
	t.Run("of a container that was started again", func(t *testing.T) {
		bubble(t, fake.Options{Program: lastWords("again", 1)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
			c.start("n1", engine)
			c.create(pod("web"))
			c.until("web", "told of its end", func(p *v1.Pod) bool {
				return waitingFor("CrashLoopBackOff")(p) && status(p, "app").GetLastState().GetTerminated().GetMessage() == "again"
			})
		})
	})
	t.Run("on Docker", func(t *testing.T) {
		engine := testdocker.Require(t)
		image := testimage.Build(t, engine)
		c := newCluster(t)
		c.start("n1", marked{engine})
		c.create(pod("job", withImage(image), withPolicy("Never"), withMessages("FallbackToLogsOnError"), func(p *v1.Pod) {
			p.Spec.Containers[0].Args = []string{"-lines", "2", "-exit", "3"}
			p.Spec.Containers = append(p.Spec.Containers, &v1.Container{
				Name: "writer", Image: image,
				Args: []string{"-say", "all is done", "-exit", "0"},
			})
		}))
		c.until("job", "told of its ends", func(p *v1.Pod) bool {
			return status(p, "app").GetState().GetTerminated().GetMessage() == "line 1\nline 2\n" &&
				status(p, "writer").GetState().GetTerminated().GetMessage() == "all is done"
		})
	})
}
