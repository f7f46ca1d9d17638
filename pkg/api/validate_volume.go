package api

import (
	"fmt"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

const (
	oneSource  = "may not have more than one field specified at a time"
	fieldOfPod = "v1" // the only version of a pod's fields
)

// Fields of a pod that can become a variable, besides single labels and
// annotations; and those that fieldPath knows at all.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	podFields = append([]string{
		"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase",
	}, envFields...)
	resourceFields = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	byteUnits = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func (e *problems) env(p path, vars []*v1.EnvVar) {
	for i, v := range vars {
		p := p.index(i)
		e.valid(p.child("name"), v.GetName(), envName)
		if v.GetValueFrom() != nil {
			e.envSource(p.child("valueFrom"), v)
		}
	}
}

func (e *problems) envSource(p path, v *v1.EnvVar) {
	from, sources := v.GetValueFrom(), 0
	if f := from.GetFieldRef(); f != nil {
		sources++
		e.fieldRef(p.child("fieldRef"), f, envFields)
	}
	if f := from.GetResourceFieldRef(); f != nil {
		sources++
		e.resourceRef(p.child("resourceFieldRef"), f)
	}
	if r := from.GetConfigMapKeyRef(); r != nil {
		sources++
		e.keyRef(p.child("configMapKeyRef"), r.GetName(), r.GetKey())
	}
	if r := from.GetSecretKeyRef(); r != nil {
		sources++
		e.keyRef(p.child("secretKeyRef"), r.GetName(), r.GetKey())
	}
	switch {
	case sources == 0:
		e.invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")
	case v.GetValue() != "":
		e.invalid(p, "", "may not be specified when `value` is not empty")
	case sources > 1:
		e.invalid(p, "", oneSource)
	}
}

func (e *problems) envFrom(all path, from []*v1.EnvFromSource) {
	for i, f := range from {
		p, sources := all.index(i), 0
		if f.GetPrefix() != "" {
			e.invalidEach(p.child("prefix"), f.GetPrefix(), envName(f.GetPrefix()))
		}
		if r := f.GetConfigMapRef(); r != nil {
			sources++
			e.reference(p.child("configMapRef").child("name"), r.GetName())
		}
		if r := f.GetSecretRef(); r != nil {
			sources++
			e.reference(p.child("secretRef").child("name"), r.GetName())
		}
		switch { // Kubernetes names the list, not its element
		case sources == 0:
			e.invalid(all, "", "must specify one of: `configMapRef` or `secretRef`")
		case sources > 1:
			e.invalid(all, "", oneSource)
		}
	}
}

// reference checks the name of an object. A dash at its end is let through, as
// at the end of a prefix: that is how Kubernetes does it here.
func (e *problems) reference(p path, name string) {
	e.valid(p, name, func(s string) []string { return dnsSubdomain(maskTrailingDash(s)) })
}

func (e *problems) keyRef(p path, name, key string) {
	e.invalidEach(p.child("name"), name, dnsSubdomain(name))
	e.valid(p.child("key"), key, configKey)
}

func (e *problems) fieldRef(p path, f *v1.ObjectFieldSelector, supported []string) {
	field, key, single := subscript(f.GetFieldPath())
	wrong := func(format string, args ...any) {
		e.invalid(p.child("fieldPath"), f.GetFieldPath(), "error converting fieldPath: "+fmt.Sprintf(format, args...))
	}
	switch {
	case f.GetApiVersion() == "":
		e.required(p.child("apiVersion"), "")
	case f.GetFieldPath() == "":
		e.required(p.child("fieldPath"), "")
	case f.GetApiVersion() != fieldOfPod:
		wrong("unsupported pod version: %s", f.GetApiVersion())
	case single && field == "metadata.annotations":
		e.invalidEach(p, strings.ToLower(key), qualifiedName(strings.ToLower(key)))
	case single && field == "metadata.labels":
		e.invalidEach(p, key, qualifiedName(key))
	case single:
		wrong("field label does not support subscript: %s", f.GetFieldPath())
	case !slices.Contains(podFields, field):
		wrong("field label not supported: %s", field)
	case !slices.Contains(supported, field):
		e.notSupported(p.child("fieldPath"), field, slices.Sorted(slices.Values(supported))...)
	}
}

func (e *problems) resourceRef(p path, f *v1.ResourceFieldSelector) {
	resource := f.GetResource()
	if resource == "" {
		e.required(p.child("resource"), "")
	} else if !slices.Contains(resourceFields, resource) {
		e.notSupported(p.child("resource"), resource, slices.Clone(resourceFields)...)
	}
	q, err := ParseQuantity(f.GetDivisor())
	switch _, name, _ := strings.Cut(resource, "."); {
	case !slices.Contains(resourceFields, resource) && err == nil:
	case f.GetDivisor() == "" || err == nil && q.Sign() == 0:
	case err != nil:
		e.invalid(p.child("divisor"), f.GetDivisor(), err.Error())
	case name == ResourceCPU && !slices.Contains([]string{"1m", "1"}, q.String()):
		e.invalid(p.child("divisor"), resource, "only divisor's values 1m and 1 are supported with the cpu resource")
	case name != ResourceCPU && !slices.Contains(byteUnits, q.String()):
		if name == ResourceEphemeralStorage {
			name = "local ephemeral storage"
		}
		e.invalid(p.child("divisor"), resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(byteUnits, ", "), name))
	}
}
