package testcluster

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/invariant"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// Entry is an entry of the store as the API shows it.
func Entry(e store.Entry) (*v1.LogEntry, error) {
	parts := strings.Split(e.Key, "/") // Pod/default/web-1, Node/node-1
	entry := &v1.LogEntry{
		Revision: e.Revision, Time: timestamppb.New(e.Time), Deleted: e.Deleted, Previous: e.Prev, Kind: parts[0], Name: parts[len(parts)-1], Object: &v1.Object{},
		Cause: &v1.Cause{Actor: e.Cause.Actor, Reason: e.Cause.Reason, Message: e.Cause.Message, Trigger: e.Cause.Trigger, SteppedBy: e.Cause.SteppedBy},
	}
	if len(parts) == 3 {
		entry.Namespace = parts[1]
	}
	return entry, proto.Unmarshal(e.Value, entry.Object)
}

// Machines are the containers that the engines of all nodes have, by the node.
func (c *Cluster) Machines() map[string][]*v1.NodeContainer {
	all := map[string][]*v1.NodeContainer{}
	for _, n := range c.nodes {
		all[n.Name] = lifecycle.Seen(n.Engine.Peek(nil))
	}
	return all
}

// CheckInvariants holds the whole log, and the machines as they are, to the
// invariants: where one of safety is broken, the test fails. It returns what the
// log tells, broken promises too.
func (c *Cluster) CheckInvariants() []*invariant.Violation {
	c.t.Helper()
	v := invariant.New()
	for e, err := range c.client.History(c.t.Context(), &v1.HistoryRequest{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		v.Check(e)
	}
	for _, broken := range append(v.All(), invariant.Doubles(c.Machines())...) {
		if broken.Class == invariant.Safety {
			c.t.Error(broken)
		}
	}
	return v.All()
}
