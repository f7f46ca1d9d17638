package why

import (
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Origin is where a chain of causes begins.
type Origin string

// A chain ends in one of these.
const (
	User      Origin = "user"      // somebody with a certificate, or a program in a person's name
	Node      Origin = "node"      // a fact that an agent saw on its node
	Clock     Origin = "clock"     // a time was over
	Bootstrap Origin = "bootstrap" // what every cluster has
	Compacted Origin = "compacted" // the log no longer reaches back so far
	Withheld  Origin = "withheld"  // the reader may not see more
	Unknown   Origin = "unknown"   // the writer did not say: a defect
)

// OriginOf says where the chain of an entry begins that names no revision.
func OriginOf(e *v1.LogEntry) Origin {
	c := e.GetCause()
	switch {
	case c.GetTrigger() == api.TriggerClock:
		return Clock
	case c.GetActor() == apiServer:
		return Bootstrap
	case strings.HasPrefix(c.GetActor(), nodePrefix), strings.HasPrefix(c.GetActor(), tokenPrefix):
		return Node
	case isComponent(c.GetActor()):
		return Unknown
	}
	return User
}

const (
	apiServer   = "apiserver"         // writes what every cluster has
	nodePrefix  = "system:node:"      // an agent
	tokenPrefix = "system:bootstrap:" // a machine that joins
)

// isComponent says that a name is that of a part of the control plane, which
// never begins anything by itself.
func isComponent(actor string) bool {
	for _, suffix := range []string{"-controller", "-collector", "-scheduler"} {
		if strings.HasSuffix(actor, suffix) {
			return true
		}
	}
	return actor == ""
}

// Who names an actor in a sentence: "user admin", "the agent of node-2".
func Who(actor string) string {
	switch {
	case actor == apiServer:
		return "the API server"
	case strings.HasPrefix(actor, nodePrefix):
		return "the agent of " + strings.TrimPrefix(actor, nodePrefix)
	case strings.HasPrefix(actor, tokenPrefix):
		return "a machine with token " + strings.TrimPrefix(actor, tokenPrefix)
	case isComponent(actor):
		return actor
	}
	return "user " + actor
}
