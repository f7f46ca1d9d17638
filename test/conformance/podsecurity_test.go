package conformance

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"pgregory.net/rapid"

	"orch/pkg/api/manifest"
	"orch/pkg/api/podsecurity"
	v1 "orch/proto/v1"
)

// Random pods are allowed and refused as Kubernetes' own checks do it, at both
// levels and at every version since v1.19, with the same words.
func TestPodSecurityStandardsAreThoseOfKubernetes(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	levels := []string{podsecurity.Privileged, podsecurity.Baseline, podsecurity.Restricted}
	rapid.Check(t, func(t *rapid.T) {
		ours := drawSecurePod(t)
		data, err := manifest.Marshal(ours)
		if err != nil {
			t.Fatal(err)
		}
		var theirs corev1.Pod
		readStrictly(t, data, &theirs)

		level, version := rapid.SampledFrom(levels).Draw(t, "level"), "latest"
		if minor := rapid.IntRange(18, 40).Draw(t, "minor"); minor > 18 {
			version = fmt.Sprintf("v1.%d", minor)
		}
		labels := map[string]string{podsecurity.LabelEnforce: level, podsecurity.LabelEnforce + "-version": version}
		want, wrong := psaapi.PolicyToEvaluate(labels, psaapi.Policy{})
		got, _ := podsecurity.PolicyOf(labels)
		if len(wrong) > 0 || got.Enforce.String() != want.Enforce.String() {
			t.Fatalf("%v: %s, want %s, %v", labels, got.Enforce, want.Enforce, wrong)
		}
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(want.Enforce, &theirs.ObjectMeta, &theirs.Spec))
		sentence := ""
		if !result.Allowed {
			sentence = fmt.Sprintf("violates PodSecurity %q: %s", want.Enforce, result.ForbiddenDetail())
		}
		if diff := cmp.Diff(sentence, got.Enforce.Violates("violates", ours.GetMetadata(), ours.GetSpec())); diff != "" {
			t.Errorf("%s\n-Kubernetes +Orch\n%s", data, diff)
		}
	})
}

// The labels of a namespace mean what they mean in Kubernetes where its
// administrator has made baseline the default; and warnings follow what is
// enforced.
func TestPodSecurityLabelsAreReadAsKubernetesDoes(t *testing.T) {
	baseline := psaapi.LevelVersion{Level: psaapi.LevelBaseline, Version: psaapi.LatestVersion()}
	open := psaapi.LevelVersion{Level: psaapi.LevelPrivileged, Version: psaapi.LatestVersion()}
	rapid.Check(t, func(t *rapid.T) {
		labels := map[string]string{}
		for _, l := range []string{podsecurity.LabelEnforce, podsecurity.LabelWarn, podsecurity.LabelAudit} {
			if rapid.Bool().Draw(t, l) {
				labels[l] = rapid.SampledFrom([]string{"privileged", "baseline", "restricted", "", "Baseline"}).Draw(t, "level")
			}
			if rapid.Bool().Draw(t, l+"-version") {
				labels[l+"-version"] = rapid.SampledFrom([]string{"latest", "v1.0", "v1.30", "v1.01", "v2.0", "1.30", "v1.99999999999999999999", ""}).Draw(t, "version")
			}
		}
		want, theirs := psaapi.PolicyToEvaluate(labels, psaapi.Policy{Enforce: baseline, Warn: baseline, Audit: open})
		got, ours := podsecurity.PolicyOf(labels)
		if diff := cmp.Diff(sentences(theirs), ourSentences(ours)); diff != "" {
			t.Errorf("%v\n-Kubernetes +Orch\n%s", labels, diff)
		}
		if len(ours) > 0 {
			return
		}
		if _, ok := labels[podsecurity.LabelWarn]; !ok {
			got.Warn, want.Warn = got.Enforce, want.Enforce
		}
		if diff := cmp.Diff([]string{want.Enforce.String(), want.Warn.String(), want.Audit.String()},
			[]string{got.Enforce.String(), got.Warn.String(), got.Audit.String()}); diff != "" {
			t.Errorf("%v\n-Kubernetes +Orch\n%s", labels, diff)
		}
	})
}

// drawSecurePod draws a pod of which every field that the standards look at is
// sometimes set, sometimes to what they forbid.
func drawSecurePod(t *rapid.T) *v1.Pod {
	p := &v1.Pod{Metadata: &v1.ObjectMeta{Annotations: map[string]string{}}, Spec: &v1.PodSpec{}}
	for _, name := range []string{"a", "b"} {
		if rapid.IntRange(0, 9).Draw(t, "apparmor") == 0 {
			p.Metadata.Annotations["container.apparmor.security.beta.kubernetes.io/"+name] = rapid.SampledFrom([]string{"", "unconfined", "localhost/x", "runtime/default"}).Draw(t, "profile")
		}
	}
	rare := func(label string) bool { return rapid.IntRange(0, 7).Draw(t, label) == 0 }
	p.Spec.HostNetwork, p.Spec.HostPid, p.Spec.HostIpc = rare("hostNetwork"), rare("hostPID"), rare("hostIPC")
	if rapid.Bool().Draw(t, "pod security") {
		c := &v1.PodSecurityContext{RunAsUser: drawUser(t), RunAsNonRoot: drawBool(t), SeccompProfile: drawSeccomp(t)}
		for range rapid.IntRange(0, 2).Draw(t, "sysctls") {
			c.Sysctls = append(c.Sysctls, &v1.Sysctl{Name: rapid.SampledFrom([]string{
				"kernel.shm_rmid_forced", "kernel/shm_rmid_forced", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_fin_timeout",
				"net.ipv4.tcp_rmem", "net.ipv4.tcp_notsent_lowat", "kernel.msgmax",
			}).Draw(t, "sysctl")})
		}
		p.Spec.SecurityContext = c
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "volumes") {
		v := &v1.Volume{Name: fmt.Sprint("v", i), EmptyDir: &v1.EmptyDirVolumeSource{}}
		if rapid.Bool().Draw(t, "hostPath") {
			v.EmptyDir, v.HostPath = nil, &v1.HostPathVolumeSource{Path: "/"}
		}
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
		p.Spec.Containers = append(p.Spec.Containers, drawSecureContainer(t, string(rune('c'-i))))
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "init containers") {
		p.Spec.InitContainers = append(p.Spec.InitContainers, drawSecureContainer(t, string(rune('x'+i))))
	}
	return p
}

func drawSecureContainer(t *rapid.T, name string) *v1.Container {
	c := &v1.Container{Name: name}
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		c.Ports = append(c.Ports, &v1.ContainerPort{ContainerPort: 80, HostPort: rapid.SampledFrom([]int32{0, 0, 0, 80, 8080}).Draw(t, "hostPort")})
	}
	host := rapid.SampledFrom([]string{"", "", "", "10.0.0.1", "example.com"})
	if rapid.Bool().Draw(t, "probes") {
		c.LivenessProbe = &v1.Probe{HttpGet: &v1.HTTPGetAction{Host: host.Draw(t, "host")}}
		c.ReadinessProbe = &v1.Probe{TcpSocket: &v1.TCPSocketAction{Host: host.Draw(t, "host")}}
		c.StartupProbe = &v1.Probe{HttpGet: &v1.HTTPGetAction{Host: host.Draw(t, "host")}}
	}
	if rapid.Bool().Draw(t, "hooks") {
		get := func() *v1.LifecycleHandler {
			return &v1.LifecycleHandler{HttpGet: &v1.HTTPGetAction{Host: host.Draw(t, "host")}}
		}
		c.Lifecycle = &v1.Lifecycle{PostStart: get(), PreStop: get()}
	}
	if rapid.IntRange(0, 5).Draw(t, "security") == 0 {
		return c
	}
	s := &v1.SecurityContext{
		RunAsUser: drawUser(t), RunAsNonRoot: drawBool(t), SeccompProfile: drawSeccomp(t),
		Privileged: drawBool(t), AllowPrivilegeEscalation: drawBool(t),
	}
	if rapid.IntRange(0, 3).Draw(t, "capabilities") > 0 {
		caps := rapid.SliceOfN(rapid.SampledFrom([]string{"NET_BIND_SERVICE", "CHOWN", "NET_ADMIN", "SYS_TIME", "ALL"}), 0, 2)
		drop := rapid.SliceOfN(rapid.SampledFrom([]string{"ALL", "ALL", "CHOWN"}), 0, 2)
		s.Capabilities = &v1.Capabilities{Add: caps.Draw(t, "add"), Drop: drop.Draw(t, "drop")}
	}
	c.SecurityContext = s
	return c
}

func drawBool(t *rapid.T) *bool {
	switch rapid.IntRange(0, 3).Draw(t, "bool") {
	case 0:
		return proto.Bool(true)
	case 1:
		return proto.Bool(false)
	}
	return nil
}

func drawUser(t *rapid.T) *int64 {
	if rapid.Bool().Draw(t, "user") {
		return nil
	}
	return proto.Int64(rapid.SampledFrom([]int64{0, 1000}).Draw(t, "id"))
}

func drawSeccomp(t *rapid.T) *v1.SeccompProfile {
	if rapid.Bool().Draw(t, "seccomp") {
		return nil
	}
	return &v1.SeccompProfile{Type: rapid.SampledFrom([]string{"RuntimeDefault", "RuntimeDefault", "Unconfined"}).Draw(t, "type")}
}
