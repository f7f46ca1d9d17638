package api

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	v1 "orch/proto/v1"
)

// AnnotationTerminations is how the containers of a pod ended lately: a
// [Terminations] in JSON. Kubernetes' status has room for the last end only. The
// pod's agent alone writes it, with the status.
const AnnotationTerminations = "orch.dev/terminations"

const (
	// KeptTerminations is how many are kept of each container.
	KeptTerminations = 10
	// maxTerminations bounds the bytes of a pod's: the object is written whole
	// with each change of its status.
	maxTerminations = 16 << 10
)

// Reasons of a Termination that Kubernetes has no word for.
const (
	ReasonLivenessFailed  = "LivenessFailed"
	ReasonStartupFailed   = "StartupFailed"
	ReasonPostStartFailed = "PostStartHookFailed"
	ReasonKilled          = "Killed"  // by a signal that its agent did not send
	ReasonStopped         = "Stopped" // by its agent; the message says why
)

// Termination is one end of a container.
type Termination struct {
	ContainerID string `json:"containerID"`
	// RestartCount of the life that ended.
	RestartCount int32     `json:"restartCount"`
	StartedAt    time.Time `json:"startedAt,omitzero"`
	FinishedAt   time.Time `json:"finishedAt"`
	ExitCode     int32     `json:"exitCode"`
	// Signal that ended it, as far as the exit code tells.
	Signal  int32  `json:"signal,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// Log is its last lines.
	Log string `json:"log,omitempty"`
}

// Terminations are those of a pod's containers, by name, oldest first.
type Terminations map[string][]Termination

// TerminationsOf reads the pod's annotation. What cannot be read counts as none.
func TerminationsOf(p *v1.Pod) Terminations {
	all := Terminations{}
	if json.Unmarshal([]byte(p.GetMetadata().GetAnnotations()[AnnotationTerminations]), &all) != nil || all == nil {
		return Terminations{}
	}
	return all
}

// Find returns the entry of the container with this id, or nil.
func (t Terminations) Find(container, id string) *Termination {
	for i := range t[container] {
		if t[container][i].ContainerID == id {
			return &t[container][i]
		}
	}
	return nil
}

// Add puts e in its place, instead of what was known of the same container, and
// forgets the oldest beyond those kept.
func (t Terminations) Add(container string, e Termination) {
	if known := t.Find(container, e.ContainerID); known != nil {
		*known = e
		return
	}
	list := append(t[container], e)
	slices.SortStableFunc(list, func(a, b Termination) int { return cmp.Compare(a.RestartCount, b.RestartCount) })
	t[container] = list[max(0, len(list)-KeptTerminations):]
}

// String is the annotation's value, "" where nothing has ended. Where all would
// be too long, logs are left out, and then entries, the oldest first.
func (t Terminations) String() string {
	fit := Terminations{}
	for name, list := range t {
		if len(list) > 0 {
			fit[name] = slices.Clone(list)
		}
	}
	for len(fit) > 0 {
		// Times out of JSON's range are all that could fail, and none is.
		b, err := json.Marshal(fit)
		if err == nil && len(b) <= maxTerminations {
			return string(b)
		}
		fit.shrink()
	}
	return ""
}

// shrink leaves out the oldest log, or, where there is none, the oldest entry.
func (t Terminations) shrink() {
	oldest := ""
	var log *Termination
	for name, list := range t {
		if oldest == "" || list[0].FinishedAt.Before(t[oldest][0].FinishedAt) {
			oldest = name
		}
		for i := range list {
			if list[i].Log != "" && (log == nil || list[i].FinishedAt.Before(log.FinishedAt)) {
				log = &list[i]
			}
		}
	}
	if log != nil {
		log.Log = ""
		return
	}
	if t[oldest] = t[oldest][1:]; len(t[oldest]) == 0 {
		delete(t, oldest)
	}
}

// KeepTerminations gives to what from has, and no other: who updates a pod does
// not change what its agent wrote.
func KeepTerminations(to, from *v1.ObjectMeta) {
	value, ok := from.GetAnnotations()[AnnotationTerminations]
	if !ok {
		delete(to.GetAnnotations(), AnnotationTerminations)
		return
	}
	Put(&to.Annotations, AnnotationTerminations, value)
}
