// Package native connects pods on Linux: a bridge for each node, a cable from it
// to each pod, and a route to each other machine.
//
// Its one invariant: what it has made bears the node's name (see names), and
// nothing else is ever changed or removed. The kernel and the sandboxes' labels
// are its only memory: a process that is killed anywhere leaves what the next one
// finds, and a sandbox that was not quite connected is made anew.
//
// Read plan.go for what should be, which is pure, pool.go for how addresses are
// given out, native_linux.go for one sandbox's way through, and kernel_linux.go
// for the kernel's part.
package native

import (
	"log/slog"

	"orch/pkg/container"
)

// Options describe the network of one node.
type Options struct {
	// Cluster and Node tell the node from all others.
	Cluster, Node string
	// Mode is HostGW or VXLAN.
	Mode string
	// Engine has the sandboxes, with these labels and no others.
	Engine container.Runtime
	Labels map[string]string
	Logger *slog.Logger
}
