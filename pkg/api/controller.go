package api

import (
	"fmt"
	"slices"
	"strings"
)

// Controllers are the parts of the control plane that can be paused, by the names that
// users give them and those in which they write.
var Controllers = []struct {
	Name   string
	Actors []string
}{
	{"deployment", []string{"deployment-controller"}},
	{"replicaset", []string{"replicaset-controller"}},
	{"scheduler", []string{DefaultScheduler}},
	{"node", []string{"node-controller", "taint-eviction-controller", "pod-garbage-collector"}},
	{"disruption", []string{"disruption-controller"}},
	{"garbage", []string{"generic-garbage-collector"}},
	{"namespace", []string{"namespace-controller"}},
	{"event", []string{"event-controller"}},
	{"nodeipam", []string{"node-ipam-controller"}},
}

// ControllerNames are the names of all.
func ControllerNames() (names []string) {
	for _, c := range Controllers {
		names = append(names, c.Name)
	}
	return names
}

// CheckControllers returns ErrNotFound, with the names that there are, where a name is
// none of them.
func CheckControllers(names ...string) error {
	all := ControllerNames()
	for _, name := range names {
		if !slices.Contains(all, name) {
			return &StatusError{
				Reason: ErrNotFound, Kind: "Controller", Name: name,
				Message: fmt.Sprintf("controllers %q not found: there are %s", name, strings.Join(all, ", ")),
			}
		}
	}
	return nil
}
