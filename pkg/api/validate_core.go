package api

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	v1 "orch/proto/v1"
)

// maxDataSize is the most bytes that the values of a ConfigMap or Secret may
// have together: Kubernetes' MaxSecretSize.
const maxDataSize = 1 << 20

func (e *problems) node(n *v1.Node) {
	e.taints("spec.taints", n.GetSpec().GetTaints())
	e.podCIDRs(n.GetSpec().GetPodCidrs())
	e.quantities("status.capacity", n.GetStatus().GetCapacity())
	e.quantities("status.allocatable", n.GetStatus().GetAllocatable())
}

// podCIDRs are a subnet of each address family at the most.
func (e *problems) podCIDRs(list []string) {
	const p path = "spec.podCIDRs"
	families := map[bool]bool{}
	for i, text := range list {
		subnet, err := netip.ParsePrefix(text)
		if err != nil {
			e.invalid(p.index(i), text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
		}
		families[subnet.Addr().Is4()] = true
	}
	if len(list) > len(families) {
		e.invalid(p, list, "may specify no more than one CIDR for each IP family")
	}
}

// podCIDRsUpdate: pods have addresses of it.
func (e *problems) podCIDRsUpdate(new, old []string) {
	if len(old) > 0 && !slices.Equal(new, old) {
		e.forbidden("spec.podCIDRs", `node updates may not change podCIDR except from "" to valid`)
	}
}

func (e *problems) configMap(c *v1.ConfigMap) {
	size := 0
	for _, k := range slices.Sorted(maps.Keys(c.GetData())) {
		e.invalidEach(path("data").key(k), k, configKey(k))
		if _, ok := c.GetBinaryData()[k]; ok {
			e.invalid(path("data").key(k), k, "duplicate of key present in binaryData")
		}
		size += len(c.GetData()[k])
	}
	for _, k := range slices.Sorted(maps.Keys(c.GetBinaryData())) {
		e.invalidEach(path("binaryData").key(k), k, configKey(k))
		size += len(c.GetBinaryData()[k])
	}
	if size > maxDataSize {
		e.tooLong("data", maxDataSize)
	}
}

// secretKeys are the keys that a type of secret must have.
var secretKeys = map[string][]string{
	"kubernetes.io/ssh-auth": {"ssh-privatekey"},
	"kubernetes.io/tls":      {"tls.crt", "tls.key"},
	SecretDockercfg:          {SecretDockercfgKey},
	SecretDockerConfigJSON:   {SecretDockerConfigJSONKey},
}

func (e *problems) secret(s *v1.Secret) {
	const p path = "data"
	size := 0
	for _, k := range slices.Sorted(maps.Keys(s.GetData())) {
		e.invalidEach(p.key(k), k, configKey(k))
		size += len(s.GetData()[k])
	}
	if size > maxDataSize {
		e.tooLong(p, maxDataSize)
	}
	for _, k := range secretKeys[s.GetType()] {
		data, ok := s.GetData()[k]
		if !ok || s.GetType() == "kubernetes.io/ssh-auth" && len(data) == 0 {
			e.required(p.key(k), "")
			continue
		}
		if k[0] == '.' {
			if err := json.Unmarshal(data, &map[string]any{}); err != nil {
				e.invalid(p.key(k), "<secret contents redacted>", err.Error())
			}
		}
	}
	if s.GetType() == "kubernetes.io/basic-auth" && s.GetData()["username"] == nil && s.GetData()["password"] == nil {
		e.required(p.key("username"), "")
		e.required(p.key("password"), "")
	}
}

func (e *problems) event(ev *v1.Event) {
	const p path = "involvedObject.namespace"
	ns, of := ev.GetMetadata().GetNamespace(), ev.GetInvolvedObject().GetNamespace()
	// Events about what is cluster-wide live in the default namespace.
	if of != ns && (of != "" || ns != NamespaceDefault) {
		e.invalid(p, of, "does not match event.namespace")
	}
	e.maybeOneOf("type", ev.GetType(), EventNormal, EventWarning)
}
