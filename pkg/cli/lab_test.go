package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"orch/pkg/cli/lab"
)

func TestALessonIsGradedAtTheKeyboard(t *testing.T) {
	s := begin(t)
	table := splitLines(s.ok("lab", "list"))
	var lessons []lab.Lesson
	if err := json.Unmarshal([]byte(s.ok("lab", "list", "-o", "json")), &lessons); err != nil || len(lessons) != 8 || len(table) != 9 {
		t.Errorf("%v, %v\n%s", lessons, err, strings.Join(table, "\n"))
	}
	for args, want := range map[string]string{
		"lab check 9":           `there is no lab "9": give one number; 'orchctl lab list' shows those that there are`,
		"lab check":             `there is no lab "": give one number`,
		"lab check 1 2":         `there is no lab "1 2": give one number`,
		"lab check 1 -o yaml":   `--output "yaml": use json, or none for a list`,
		"lab check 1 --since x": `"x" is none: give a revision`,
		"lab list -o yaml":      `--output "yaml": use json, or none for a table`,
		"lab grade 1":           `unknown command "grade" for "orchctl lab"`,
	} {
		s.fails(1, want, strings.Fields(args)...)
	}

	out, errs, code := s.run("lab", "check", "1")
	if code != 1 || errs != "" || strings.Contains(out, "✓") || !strings.Contains(out, "✗ You said what should be: a Deployment\n    orchctl apply -f examples/webflix/\n") || !strings.HasSuffix(out, "\n\n0 of 6.\n") {
		t.Errorf("before: exit code %d\n%s%s", code, out, errs)
	}
	s.ok("apply", "-f", s.file(web))
	revision := s.revision("deployment", "web")
	if out, _, code = s.run("lab", "check", "1"); code != 1 || !strings.Contains(out, "was created by user admin: applied with orchctl (rev "+revision+")\n") || !strings.HasSuffix(out, "\n\n1 of 6.\n") {
		t.Errorf("after the first step: exit code %d\n%s", code, out)
	}
	out, _, code = s.run("lab", "check", "1", "-o", "json")
	var g lab.Grade
	if err := json.Unmarshal([]byte(out), &g); err != nil || code != 1 || g.Done || g.Lesson != 1 || len(g.Marks) != 6 || !g.Marks[0].Done || g.Marks[0].Evidence == "" || g.Marks[1].Done || g.Marks[1].Hint == "" {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	if out, _, _ = s.run("lab", "check", "1", "-n", "kube-system"); !strings.Contains(out, "0 of 6.") {
		t.Errorf("in another namespace:\n%s", out)
	}

	// What is left of a longer log gives marks for what it tells, and says where it begins.
	s.ok("scale", "deployment/web", "--replicas=4")
	out, _, _ = s.run("lab", "check", "1", "--since", s.revision("deployment", "web"))
	contains(t, out, "0 of 6.\nOnly what was written from revision "+s.revision("deployment", "web")+" on was looked at: what was done before does not count.\n")
}
