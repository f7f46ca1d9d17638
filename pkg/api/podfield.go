package api

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	v1 "orch/proto/v1"
)

// PodField returns what a fieldPath such as metadata.labels['app'] or
// status.podIP stands for in the pod. Labels and annotations as a whole are one
// line key="value" each.
func PodField(p *v1.Pod, fieldPath string) (string, error) {
	m, s := p.GetMetadata(), p.GetStatus()
	if field, key, ok := subscript(fieldPath); ok {
		switch field {
		case "metadata.labels":
			return m.GetLabels()[key], nil
		case "metadata.annotations":
			return m.GetAnnotations()[key], nil
		}
	}
	switch fieldPath {
	case "metadata.name":
		return m.GetName(), nil
	case "metadata.namespace":
		return m.GetNamespace(), nil
	case "metadata.uid":
		return m.GetUid(), nil
	case "metadata.labels":
		return fieldLines(m.GetLabels()), nil
	case "metadata.annotations":
		return fieldLines(m.GetAnnotations()), nil
	case "spec.nodeName":
		return p.GetSpec().GetNodeName(), nil
	case "spec.serviceAccountName":
		return "default", nil // the only one that a manifest may name
	case "status.hostIP", "status.hostIPs":
		return s.GetHostIp(), nil
	case "status.podIP":
		return s.GetPodIp(), nil
	case "status.podIPs":
		ips := make([]string, len(s.GetPodIps()))
		for i, ip := range s.GetPodIps() {
			ips[i] = ip.GetIp()
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", fieldPath)
}

// subscript takes "metadata.labels['app']" apart.
func subscript(fieldPath string) (field, key string, ok bool) {
	field, rest, ok := strings.Cut(fieldPath, "['")
	if !ok || field == "" || !strings.HasSuffix(rest, "']") {
		return fieldPath, "", false
	}
	return field, strings.TrimSuffix(rest, "']"), true
}

func fieldLines(values map[string]string) string {
	lines := make([]string, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		lines = append(lines, k+"="+strconv.Quote(values[k]))
	}
	return strings.Join(lines, "\n")
}

// ContainerResource returns what "limits.cpu" and the like stand for in a
// container, counted in units of divisor ("" and 0 are 1) and rounded up. Where
// there is no limit, the node's allocatable is one.
func ContainerResource(c *v1.Container, resource, divisor string, allocatable map[string]string) string {
	list, name, _ := strings.Cut(resource, ".")
	amounts := c.GetResources().GetRequests()
	if list == "limits" {
		if amounts = c.GetResources().GetLimits(); quantityIn(amounts, name).Sign() == 0 {
			amounts = allocatable
		}
	}
	amount, unit := quantityIn(amounts, name), quantityIn(map[string]string{"": divisor}, "")
	if unit.Sign() <= 0 {
		unit = NewQuantity(1)
	}
	a, b, _ := align(amount, unit)
	n, rest := new(big.Int).QuoRem(a, b, new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return n.String()
}
