//go:build !linux

package fault

import (
	"errors"

	"orch/pkg/agent/lifecycle"
)

type abilities struct{ filter, netem, stress bool }

func kernelCan() abilities { return abilities{} }

var errNotHere = errors.New("this needs Linux")

func inNetwork(lifecycle.Container, func() error) error { return errNotHere }

func output(string, ...string) (string, error) { return "", errNotHere }

type stressor struct{ exited chan struct{} }

func startStressor(lifecycle.Container, ...string) (*stressor, error) { return nil, errNotHere }

func (s *stressor) end() {}
