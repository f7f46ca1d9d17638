package api

import (
	"time"

	v1 "orch/proto/v1"
)

// AnnotationStopWhenCutOff is for pods that must not run twice: how long their
// agent may be without an answer of the API server before it ends them, "30s".
const AnnotationStopWhenCutOff = "orch.dev/stop-when-cut-off-after"

// StopWhenCutOff is the time of that annotation; 0 where a pod goes on.
func StopWhenCutOff(m *v1.ObjectMeta) time.Duration {
	d, _ := time.ParseDuration(m.GetAnnotations()[AnnotationStopWhenCutOff]) // validated; else it goes on
	return d
}

func (e *problems) stopWhenCutOff(p path, m *v1.ObjectMeta) {
	text, ok := m.GetAnnotations()[AnnotationStopWhenCutOff]
	if d, err := time.ParseDuration(text); ok && (err != nil || d < time.Second) {
		e.invalid(p.key(AnnotationStopWhenCutOff), text, "must be a duration of a second or more, such as 30s")
	}
}
