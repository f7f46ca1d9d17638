package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/agent/keyring"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/probe"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// How soon what failed is tried again for the first time; then the pauses
// double.
const (
	retryPull    = 10 * time.Second // Kubernetes' figure
	retryStart   = 10 * time.Second
	retryOther   = time.Second
	retryUnheard = time.Second // the engine did not answer
)

// note changes a pod's memory after a call.
type note func(*lifecycle.Memory)

func nothing(*lifecycle.Memory) {}

// do carries out one action and returns what is to be remembered of it. pod is
// nil only for actions that undo.
func (w *worker) do(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	switch a.Verb {
	case lifecycle.Mount:
		return w.mount(ctx, pod, a)
	case lifecycle.CreateSandbox:
		return w.createSandbox(ctx, pod, a)
	case lifecycle.Pull:
		return w.pull(ctx, pod, a)
	case lifecycle.Create:
		return w.create(ctx, pod, a)
	case lifecycle.Start:
		return w.start(ctx, pod, a)
	case lifecycle.PostStart, lifecycle.PreStop:
		return w.hook(ctx, pod, a)
	case lifecycle.Stop, lifecycle.Kill:
		return w.stop(ctx, pod, a)
	case lifecycle.Remove:
		err := w.agent.runtime.Remove(ctx, a.ID)
		if err == nil {
			w.agent.observer.Drop(a.ID)
			w.agent.volumes.RemoveMessage(w.uid, a.Container, a.Attempt)
		}
		return w.outcome(ctx, a, err, retryOther)
	case lifecycle.ReadLog:
		return w.readLog(ctx, pod, a)
	case lifecycle.Verify:
		left, err := w.agent.observer.ListPod(ctx, w.uid)
		if err != nil {
			return w.outcome(ctx, a, err, retryOther)
		}
		return func(m *lifecycle.Memory) { m.Empty = left == 0 }
	case lifecycle.Unmount:
		err := w.agent.volumes.Remove(w.uid, func(dir string, folders []string) error {
			return w.agent.runtime.Unlock(ctx, dir, folders, w.agent.owner.Labels())
		})
		note := w.outcome(ctx, a, err, retryOther)
		return func(m *lifecycle.Memory) {
			note(m)
			m.Mounted = m.Failures[a.Slot].Count > 0
		}
	case lifecycle.Delete:
		return w.delete(ctx, a)
	}
	return nothing
}

// outcome remembers how an action without a reason of Kubernetes' own went.
func (w *worker) outcome(ctx context.Context, a lifecycle.Action, err error, first time.Duration) note {
	if err == nil {
		return func(m *lifecycle.Memory) { delete(m.Failures, a.Slot) }
	}
	return w.failure(ctx, a.Slot, a.Verb, string(a.Verb), err, first)
}

// failure remembers that a call failed under the given reason. That the engine
// did not answer, or that the call was given up, is no failure of the pod.
func (w *worker) failure(ctx context.Context, slot string, verb lifecycle.Verb, reason string, err error, first time.Duration) note {
	if ctx.Err() != nil {
		return nothing
	}
	w.agent.metrics.errors.WithLabelValues(string(verb)).Inc()
	w.agent.log.Warn("engine call failed", "pod", w.key, "call", verb, "error", err)
	return func(m *lifecycle.Memory) {
		now := time.Now()
		f := m.Failures[slot]
		f.Retry = now.Add(retryUnheard)
		if !errors.Is(err, container.ErrUnavailable) {
			f = lifecycle.Failure{Reason: reason, Message: err.Error(), Count: f.Count + 1, At: now}
			f.Retry = now.Add(lifecycle.RetryDelay(first, f.Count))
		}
		m.Failures[slot] = f
	}
}

// mount makes volumes, or brings them up to date.
func (w *worker) mount(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	made := map[string]string{}
	var failed []error
	for _, v := range a.Volumes {
		if err := w.agent.volumes.Set(w.uid, v); err != nil {
			w.event(ctx, pod, api.EventWarning, "FailedMount", failedMount, v.Name, err)
			failed = append(failed, fmt.Errorf("volume %q: %w", v.Name, err))
			continue
		}
		made[v.Name] = v.Fingerprint()
	}
	note := w.outcome(ctx, a, errors.Join(failed...), retryOther)
	return func(m *lifecycle.Memory) {
		maps.Copy(m.Volumes, made)
		note(m)
	}
}

// failedMount is the kubelet's sentence.
const failedMount = "MountVolume.SetUp failed for volume %q : %v"

// mounts are the paths of this machine that the container sees.
func (w *worker) mounts(spec *v1.Container, a lifecycle.Action) ([]container.Mount, error) {
	mounts := make([]container.Mount, len(a.Mounts))
	for i, m := range a.Mounts {
		source, err := w.agent.volumes.Source(w.uid, m.Volume, m.SubPath, spec.GetName(), i)
		if err != nil {
			return nil, lifecycle.SubPathError(m, spec, err)
		}
		// A hostPath of no type is made by the engine, as by those of Kubernetes.
		mounts[i] = container.Mount{
			Source: source, Target: m.Target, ReadOnly: m.ReadOnly,
			MakeSource: m.HostPath != "" && m.HostPathType == "" && m.SubPath == "",
		}
	}
	return mounts, nil
}

func (w *worker) createSandbox(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	release, err := w.agent.slot(ctx, a.Attempt > 0, w.ending)
	if err != nil {
		return nothing
	}
	defer release()
	defer w.agent.observer.Making(w.uid, lifecycle.SandboxSlot)()
	c, err := w.agent.runtime.CreateSandbox(ctx, lifecycle.SandboxConfig(w.agent.owner, pod, a))
	switch {
	case err == nil:
		w.agent.observer.Put(c)
		return w.outcome(ctx, a, nil, 0)
	case errors.Is(err, container.ErrConflict) && w.isMade(ctx, a):
		return w.outcome(ctx, a, nil, 0)
	}
	if ctx.Err() == nil && !errors.Is(err, container.ErrUnavailable) {
		w.event(ctx, pod, api.EventWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	return w.failure(ctx, a.Slot, a.Verb, lifecycle.ReasonSandboxError, err, retryOther)
}

func (w *worker) pull(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	spec := api.FindContainer(pod.GetSpec(), a.Container)
	image := spec.GetImage()
	if spec.GetImagePullPolicy() != api.PullAlways {
		if _, err := w.agent.runtime.Image(ctx, image); err == nil {
			return func(m *lifecycle.Memory) { // somebody brought it meanwhile
				delete(m.Missing, a.Container)
				delete(m.Failures, a.Container)
			}
		}
	}
	if len(a.MissingSecrets) > 0 {
		w.event(ctx, pod, api.EventWarning, "FailedToRetrieveImagePullSecret",
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(a.MissingSecrets, ", "))
	}
	pulling := fmt.Sprintf("Pulling image %q", image)
	w.event(ctx, pod, api.EventNormal, "Pulling", "%s", pulling)
	began := time.Now()
	logins, err := keyring.Logins(a.Secrets, image)
	var pulled container.Image
	var took time.Duration
	if err == nil {
		revise := func(text string) {
			w.agent.recorder.Revise(ctx, pod, api.EventNormal, "Pulling", pulling, text)
		}
		slow := false
		pulled, took, err = w.agent.images.Pull(ctx, image, logins, func(now container.Progress) {
			slow = true
			revise(pulling + describeProgress(now))
		})
		if slow {
			revise(pulling) // it goes on no more
		}
	}
	if err == nil {
		w.event(ctx, pod, api.EventNormal, "Pulled", "Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.",
			image, took.Truncate(time.Millisecond), time.Since(began).Truncate(time.Millisecond), pulled.SizeBytes)
		w.agent.node.Pulled(pulled)
		return func(m *lifecycle.Memory) {
			m.Pulled[a.Container] = a.Attempt
			delete(m.Missing, a.Container)
			delete(m.Failures, a.Container)
		}
	}
	if _, missing := w.agent.runtime.Image(ctx, image); missing == nil && spec.GetImagePullPolicy() == api.PullAlways {
		err = fmt.Errorf("%w. An image of this name is on this machine, and imagePullPolicy Always, which is the default with the tag latest or none, has it fetched anew", err)
	}
	if ctx.Err() == nil && !errors.Is(err, container.ErrUnavailable) {
		w.event(ctx, pod, api.EventWarning, "Failed", "Failed to pull image %q: %v", image, err)
		w.event(ctx, pod, api.EventWarning, "Failed", "Error: ErrImagePull")
		w.event(ctx, pod, api.EventNormal, "BackOff", "Back-off pulling image %q", image)
		w.event(ctx, pod, api.EventWarning, "Failed", "Error: ImagePullBackOff")
	}
	return w.failure(ctx, a.Container, a.Verb, lifecycle.ReasonErrImagePull, err, retryPull)
}

// describeProgress is what follows "Pulling image …" while that takes its time.
func describeProgress(p container.Progress) string {
	const mega = 1e6 // as Docker counts
	return fmt.Sprintf(": %d of %d layers, %.1f of %.1f MB", p.Done, p.Layers, float64(p.Bytes)/mega, float64(p.TotalBytes)/mega)
}

// create makes a container and leaves the rest to a start. It needs no slot: its
// pod's sandbox, which is being started, has one. What fails here is tried again
// by the start, which then says what is wrong; only an image that is missing is
// worth knowing early.
func (w *worker) create(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	spec := api.FindContainer(pod.GetSpec(), a.Container)
	config, id, err := w.createContainer(ctx, pod, spec, a)
	if err == nil {
		w.agent.observer.Put(container.Container{ID: id, Name: config.Name, Labels: config.Labels, State: container.StateCreated})
		return nothing
	}
	if errors.Is(err, container.ErrNotFound) && w.imageIsMissing(ctx, spec) {
		return w.imageMissing(ctx, pod, spec, a)
	}
	return func(m *lifecycle.Memory) {
		m.Failures[a.Slot] = lifecycle.Failure{At: time.Now(), Retry: time.Now().Add(retryUnheard)}
	}
}

// createContainer asks the engine for the container. Where the pod's rules
// depend on the image's user, the engine is asked for that first.
func (w *worker) createContainer(ctx context.Context, pod *v1.Pod, spec *v1.Container, a lifecycle.Action) (container.Config, string, error) {
	config := lifecycle.ContainerConfig(w.agent.owner, pod, spec, a)
	config.Resources.PIDs = w.agent.options.PodMaxPIDs
	config.Resources.OOMScore = lifecycle.OOMScore(pod.GetSpec(), spec, w.agent.node.Memory())
	err := lifecycle.SetUser(&config, pod, spec, func() (string, error) {
		image, err := w.agent.runtime.Image(ctx, spec.GetImage())
		return image.User, err
	})
	if err == nil {
		config.Mounts, err = w.mounts(spec, a)
	}
	if err != nil {
		return config, "", err
	}
	message, err := w.agent.volumes.MakeMessage(w.uid, a.Container, a.Attempt)
	if err == nil && !w.agent.remote.Load() {
		config.Mounts = append(config.Mounts, container.Mount{Source: message, Target: api.TerminationMessagePath(spec)})
	}
	id, err := w.agent.runtime.Create(ctx, config)
	if _, here := os.Stat(message); err != nil && here == nil && strings.Contains(err.Error(), "bind source path does not exist: "+message) {
		// The engine is on another machine. Pods without volumes run all the same,
		// and say nothing at their end.
		w.agent.remote.Store(true)
		config.Mounts = config.Mounts[:len(config.Mounts)-1]
		id, err = w.agent.runtime.Create(ctx, config)
	}
	return config, id, err
}

func (w *worker) imageIsMissing(ctx context.Context, spec *v1.Container) bool {
	_, err := w.agent.runtime.Image(ctx, spec.GetImage())
	return errors.Is(err, container.ErrNotFound)
}

// start makes a container and starts it. It is the path of healing: nothing but
// the engine's two calls stands in it, and events are sent after them.
func (w *worker) start(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	release, err := w.agent.slot(ctx, !a.EndedAt.IsZero(), w.ending)
	if err != nil {
		return nothing
	}
	defer release()
	defer w.agent.observer.Making(w.uid, a.Container)()

	spec, id := api.FindContainer(pod.GetSpec(), a.Container), a.ID
	if id == "" {
		if _, id, err = w.createContainer(ctx, pod, spec, a); err != nil {
			return w.notCreated(ctx, pod, spec, a, err)
		}
	}
	c, err := w.agent.runtime.Start(ctx, id)
	if err != nil {
		return w.notStarted(ctx, pod, a, id, err)
	}
	w.agent.observer.Put(c)
	w.agent.metrics.starts.Inc()
	if a.Attempt > 0 {
		w.agent.metrics.restarts.Inc()
	}
	if !a.EndedAt.IsZero() {
		w.agent.metrics.heal.Observe(time.Since(a.EndedAt).Seconds())
	}
	if !a.Pulled {
		w.event(ctx, pod, api.EventNormal, "Pulled", "Container image %q already present on machine", spec.GetImage())
	}
	w.event(ctx, pod, api.EventNormal, "Created", "Created container: %s", a.Container)
	w.event(ctx, pod, api.EventNormal, "Started", "Started container %s", a.Container)
	return func(m *lifecycle.Memory) { delete(m.Failures, a.Container) }
}

// notCreated tells a missing image, which has to be pulled, from the rest.
func (w *worker) notCreated(ctx context.Context, pod *v1.Pod, spec *v1.Container, a lifecycle.Action, err error) note {
	if errors.Is(err, container.ErrConflict) && w.isMade(ctx, a) {
		return w.outcome(ctx, a, nil, 0)
	}
	if errors.Is(err, container.ErrNotFound) && w.imageIsMissing(ctx, spec) {
		return w.imageMissing(ctx, pod, spec, a)
	}
	if ctx.Err() == nil && !errors.Is(err, container.ErrUnavailable) {
		w.event(ctx, pod, api.EventWarning, "Failed", "Error: %v", err)
	}
	reason := lifecycle.ReasonCreateContainerError
	if errors.Is(err, lifecycle.ErrConfig) {
		reason = lifecycle.ReasonContainerConfigError
	}
	return w.failure(ctx, a.Container, a.Verb, reason, err, retryStart)
}

// isMade says, where a name was taken, whether it was taken by what was to be
// made: by a call whose answer was lost.
func (w *worker) isMade(ctx context.Context, a lifecycle.Action) bool {
	if _, err := w.agent.observer.ListPod(ctx, w.uid); err != nil {
		return false
	}
	return slices.ContainsFunc(w.agent.observer.Pod(w.uid), func(c lifecycle.Container) bool {
		return c.Name == a.Container && c.Attempt == a.Attempt
	})
}

func (w *worker) imageMissing(ctx context.Context, pod *v1.Pod, spec *v1.Container, a lifecycle.Action) note {
	if spec.GetImagePullPolicy() == api.PullNever {
		err := fmt.Errorf("container image %q is not present with pull policy of Never", spec.GetImage()) //nolint:err113 // Kubernetes' sentence
		w.event(ctx, pod, api.EventWarning, lifecycle.ReasonErrImageNeverPull, "%v", err)
		return w.failure(ctx, a.Container, a.Verb, lifecycle.ReasonErrImageNeverPull, err, retryPull)
	}
	return func(m *lifecycle.Memory) {
		m.Missing[a.Container] = true
		delete(m.Pulled, a.Container) // it was, and is gone again
	}
}

// notStarted looks whether the engine remembers why: then the container counts
// as one that crashed at once.
func (w *worker) notStarted(ctx context.Context, pod *v1.Pod, a lifecycle.Action, id string, err error) note {
	if ctx.Err() != nil {
		return nothing
	}
	err = namedError{err, id, a.Container}
	if !errors.Is(err, container.ErrUnavailable) {
		w.event(ctx, pod, api.EventWarning, "Failed", "Error: %v", err)
	}
	if look := w.agent.observer.Inspect(ctx, id); look == nil {
		for _, c := range w.agent.observer.Pod(w.uid) {
			if c.ID == id && (c.Exited() || c.Running()) {
				return w.outcome(ctx, a, nil, 0)
			}
		}
	}
	return w.failure(ctx, a.Container, a.Verb, lifecycle.ReasonRunContainerError, err, retryStart)
}

// namedError is an error with the container's name in the place of its id, which
// would make each try another event and another status.
type namedError struct {
	err      error
	id, name string
}

func (e namedError) Error() string { return strings.ReplaceAll(e.err.Error(), e.id, e.name) }
func (e namedError) Unwrap() error { return e.err }

// hook does what a container's spec wants done after its start or before its
// end. A preStop hook that fails changes nothing, as in Kubernetes; nor do the
// events say why a hook failed, which might be a secret.
func (w *worker) hook(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	spec := api.FindContainer(pod.GetSpec(), a.Container)
	target := probe.Target{ID: a.ID, Spec: spec}
	if a.Sandbox != nil {
		target.IP = a.Sandbox.IP
	}
	var err error
	if a.Verb == lifecycle.PostStart {
		err = w.agent.asker.Hook(ctx, target, spec.GetLifecycle().GetPostStart())
	} else {
		if !a.Told {
			w.event(ctx, pod, api.EventNormal, "Killing", "%s", a.Why)
		}
		bounded, cancel := context.WithTimeout(ctx, a.Grace)
		defer cancel()
		err = w.agent.asker.Hook(bounded, target, spec.GetLifecycle().GetPreStop())
	}
	if ctx.Err() != nil {
		return nothing
	}
	if err != nil {
		name := map[lifecycle.Verb]string{lifecycle.PostStart: "PostStartHook", lifecycle.PreStop: "PreStopHook"}[a.Verb]
		w.agent.log.Warn("hook failed", "pod", w.key, "container", a.Container, "hook", a.Verb, "error", err)
		w.event(ctx, pod, api.EventWarning, "Failed"+name, "%s failed", name)
	}
	return func(m *lifecycle.Memory) {
		if a.Verb == lifecycle.PreStop {
			m.PreStop[a.ID] = true
			return
		}
		m.PostStart[a.ID] = err
	}
}

func (w *worker) stop(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	if pod != nil && a.Verb == lifecycle.Stop && !a.Told {
		w.event(ctx, pod, api.EventNormal, "Killing", "%s", a.Why)
	}
	var err error
	if a.Verb == lifecycle.Stop {
		err = w.agent.runtime.Stop(ctx, a.ID, a.Grace)
	} else if err = w.agent.runtime.Kill(ctx, a.ID, "SIGKILL"); errors.Is(err, container.ErrNotRunning) {
		err = nil
	}
	switch {
	case errors.Is(err, container.ErrNotFound):
		w.agent.observer.Drop(a.ID)
		err = nil
	case err == nil:
		// The engine says that it has ended; see it before deciding again.
		err = w.agent.observer.Inspect(ctx, a.ID)
	}
	return w.outcome(ctx, a, err, retryOther)
}

// logTime bounds the reading of a log's end.
const logTime = 10 * time.Second

// readLog reads the end of the log of what has ended. What cannot be read is let
// be: the engine may have lost it.
func (w *worker) readLog(ctx context.Context, pod *v1.Pod, a lifecycle.Action) note {
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	var end tail
	_ = w.agent.runtime.Logs(ctx, a.ID, container.LogOptions{Tail: lifecycle.MessageLines}, &end, &end)
	engine, message := w.agent.node.Engine(), w.agent.volumes.Message(w.uid, a.Container, a.Attempt)
	return func(m *lifecycle.Memory) {
		m.TookMessage(pod.GetSpec(), a, message, end)
		m.TookLog(engine, a.Container, a.ID, end)
	}
}

// tail is the end of what is written to it.
type tail []byte

// tailSize is more than the ledger keeps of a log, whatever is left out of it.
const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b[max(0, len(b)-tailSize):]...)
	*t = (*t)[max(0, len(*t)-tailSize):]
	return len(b), nil
}

// delete says to the API server that the pod's last container is gone.
func (w *worker) delete(ctx context.Context, a lifecycle.Action) note {
	w.reporter.Flush(ctx)
	ctx = client.WithCause(ctx, "ContainersRemoved", "all containers of the pod have ended and are removed from node %s", w.agent.options.NodeName)
	_, err := w.agent.pods.Delete(ctx, w.key.Namespace, w.key.Name, client.DeleteOptions{GracePeriodSeconds: proto.Int64(0), UID: w.uid})
	switch {
	case err == nil, errors.Is(err, api.ErrNotFound), errors.Is(err, api.ErrConflict):
		return func(m *lifecycle.Memory) { m.Deleted = true; delete(m.Failures, a.Slot) }
	case ctx.Err() != nil:
		return nothing
	}
	w.agent.log.Warn("pod could not be deleted", "pod", w.key, "error", err)
	return func(m *lifecycle.Memory) {
		m.Failures[a.Slot] = lifecycle.Failure{At: time.Now(), Retry: time.Now().Add(retryUnheard)}
	}
}

func (w *worker) event(ctx context.Context, pod *v1.Pod, typ, reason, format string, args ...any) {
	w.agent.recorder.Event(ctx, pod, typ, reason, format, args...)
}
