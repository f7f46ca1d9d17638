package api

import (
	"fmt"

	v1 "orch/proto/v1"
)

func (e *problems) probes(p path, c *v1.Container) {
	e.probe(p.child("livenessProbe"), c.GetLivenessProbe(), true)
	if r := c.GetReadinessProbe(); r != nil {
		e.probe(p.child("readinessProbe"), r, false)
		if r.TerminationGracePeriodSeconds != nil {
			e.invalid(p.child("readinessProbe").child("terminationGracePeriodSeconds"), r.GetTerminationGracePeriodSeconds(), "must not be set for readinessProbes")
		}
	}
	e.probe(p.child("startupProbe"), c.GetStartupProbe(), true)
}

// probe checks one probe. Those that kill are content with one good answer.
func (e *problems) probe(p path, probe *v1.Probe, kills bool) {
	if probe == nil {
		return
	}
	e.handler(p, probe.GetExec(), probe.GetHttpGet(), probe.GetTcpSocket(), probe.GetGrpc(), nil, 0)
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", probe.GetInitialDelaySeconds()},
		{"timeoutSeconds", probe.GetTimeoutSeconds()},
		{"periodSeconds", probe.GetPeriodSeconds()},
		{"successThreshold", probe.GetSuccessThreshold()},
		{"failureThreshold", probe.GetFailureThreshold()},
	} {
		e.nonNegative(p.child(f.name), int64(f.value))
	}
	if probe.TerminationGracePeriodSeconds != nil && probe.GetTerminationGracePeriodSeconds() <= 0 {
		e.invalid(p.child("terminationGracePeriodSeconds"), probe.GetTerminationGracePeriodSeconds(), "must be greater than 0")
	}
	if kills && probe.GetSuccessThreshold() != 1 {
		e.invalid(p.child("successThreshold"), probe.GetSuccessThreshold(), "must be 1")
	}
}

func (e *problems) lifecycle(p path, l *v1.Lifecycle, grace int64) {
	if h := l.GetPostStart(); h != nil {
		e.handler(p.child("postStart"), h.GetExec(), h.GetHttpGet(), nil, nil, h.GetSleep(), grace)
	}
	if h := l.GetPreStop(); h != nil {
		e.handler(p.child("preStop"), h.GetExec(), h.GetHttpGet(), nil, nil, h.GetSleep(), grace)
	}
}

// handler checks that there is one way to ask or to act, and that it is right.
func (e *problems) handler(p path, exec *v1.ExecAction, get *v1.HTTPGetAction, tcp *v1.TCPSocketAction, grpc *v1.GRPCAction, sleep *v1.SleepAction, grace int64) {
	found := false
	for _, h := range []struct {
		name  string
		set   bool
		check func(path)
	}{
		{"exec", exec != nil, func(p path) {
			if len(exec.GetCommand()) == 0 {
				e.required(p.child("command"), "")
			}
		}},
		{"httpGet", get != nil, func(p path) { e.httpGet(p, get) }},
		{"tcpSocket", tcp != nil, func(p path) { e.portOrName(p.child("port"), tcp.GetPort()) }},
		{"grpc", grpc != nil, func(p path) {
			e.invalidEach(p.child("port"), grpc.GetPort(), portNumber(grpc.GetPort()))
		}},
		{"sleep", sleep != nil, func(p path) {
			if n := sleep.GetSeconds(); n < 0 || n > grace {
				e.invalid(p, n, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", grace))
			}
		}},
	} {
		switch {
		case !h.set:
		case found:
			e.forbidden(p.child(h.name), "may not specify more than 1 handler type")
		default:
			found = true
			h.check(p.child(h.name))
		}
	}
	if !found {
		e.required(p, "must specify a handler type")
	}
}

func (e *problems) httpGet(p path, a *v1.HTTPGetAction) {
	e.present(p.child("path"), a.GetPath())
	e.portOrName(p.child("port"), a.GetPort())
	if s := a.GetScheme(); s != SchemeHTTP && s != SchemeHTTPS {
		e.notSupported(p.child("scheme"), s, SchemeHTTP, SchemeHTTPS)
	}
	for _, h := range a.GetHttpHeaders() {
		if !headerNameRegexp.MatchString(h.GetName()) {
			e.invalid(p.child("httpHeaders"), h.GetName(), breach(headerNameRule, headerNameFormat, "X-Header-Name"))
		}
	}
}

func (e *problems) portOrName(p path, port *v1.IntOrString) {
	if name, ok := port.GetValue().(*v1.IntOrString_Str); ok {
		e.invalidEach(p, name.Str, portName(name.Str))
		return
	}
	e.invalidEach(p, port.GetInt(), portNumber(port.GetInt()))
}
