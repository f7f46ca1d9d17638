//go:build linux

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"orch/test/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// What docs/lab.md tells to type, without engines.
func TestAtThePrompt(t *testing.T) {
	lab.Require(t)
	var out bytes.Buffer
	if err := run([]string{"up", "--fake", "2"}, strings.NewReader(`
orchctl wait node --all --for=condition=Ready
cut m1 from api
cut m1 m2 to api
cut m2
lose 20% m1
heal
kill nodeagent m2
start nodeagent m2
kill apiserver api
start apiserver api
kill m1
m1 hostname
boot m1
m1 hostname
kill m9
cut m1 from
start m1
what
down
`), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	_, said, _ := strings.Cut(out.String(), help)
	want := strings.ReplaceAll(`> > node/m1 condition met
node/m2 condition met
> > > > > > > > > > > m1 is off
> > m1
> there is no machine "m9"
> want a machine: api, m1, m2, …
> start: want a program and a machine
> `+help+"> ", "> ", "lab> ")
	if said != want {
		t.Errorf("said:\n%s\nwant:\n%s", said, want)
	}
}
