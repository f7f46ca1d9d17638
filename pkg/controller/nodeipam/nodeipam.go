// Package nodeipam gives each node the subnet that its pods have addresses of
// (Kubernetes' node-ipam-controller, with the range allocator).
//
// The one invariant: no two nodes that exist have subnets with an address in
// common. So all nodes are one item of work: what was given to one is in the
// mirror before the next is looked at.
//
// Read next: pkg/network/native, which makes use of the subnets.
package nodeipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes.
const Name = "node-ipam-controller"

// maskSize is Kubernetes' default for --node-cidr-mask-size-ipv4: 254 addresses.
const maskSize = 24

// ParseClusterCIDR reads what nodes get their subnets of.
func ParseClusterCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() || p.Bits() > maskSize || p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q: want an IPv4 subnet that has room for one with /%d for each node, such as 10.244.0.0/16", text, maskSize)
	}
	return p, nil
}

// Plan says which subnets the nodes get that have none, by the nodes' names, the
// oldest first; the zero value where none is left.
func Plan(cluster netip.Prefix, nodes []*v1.Node) map[string]netip.Prefix {
	var used []netip.Prefix
	var without []*v1.Node
	for _, n := range nodes {
		if len(n.GetSpec().GetPodCidrs()) == 0 {
			without = append(without, n)
		}
		for _, text := range n.GetSpec().GetPodCidrs() {
			if p, err := netip.ParsePrefix(text); err == nil {
				used = append(used, p)
			}
		}
	}
	slices.SortFunc(without, func(a, b *v1.Node) int {
		x, y := a.GetMetadata(), b.GetMetadata()
		return cmp.Or(x.GetCreationTimestamp().AsTime().Compare(y.GetCreationTimestamp().AsTime()), cmp.Compare(x.GetName(), y.GetName()))
	})
	given := map[string]netip.Prefix{}
	for _, n := range without {
		subnet := free(cluster, used)
		used = append(used, subnet)
		given[n.GetMetadata().GetName()] = subnet
	}
	return given
}

// free is the first subnet of the cluster's that has no address of the used ones.
func free(cluster netip.Prefix, used []netip.Prefix) netip.Prefix {
	for i := range 1 << (maskSize - cluster.Bits()) {
		a := cluster.Addr().As4()
		first := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
		first += uint32(i) << (32 - maskSize)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(first >> 24), byte(first >> 16), byte(first >> 8), byte(first)}), maskSize)
		if !slices.ContainsFunc(used, func(u netip.Prefix) bool { return u.IsValid() && u.Overlaps(subnet) }) {
			return subnet
		}
	}
	return netip.Prefix{}
}

// Controller is the shell around Plan.
type Controller struct {
	c       *client.Client
	nodes   *informer.Informer[*v1.Node]
	cluster netip.Prefix
	loop    *reconcile.Loop
	says    *client.Recorder
}

// New returns a controller that reads from the mirror, which runs elsewhere and
// must not have begun to.
func New(c *client.Client, nodes *informer.Informer[*v1.Node], cluster netip.Prefix, log *slog.Logger) *Controller {
	r := &Controller{c: c.As(Name), nodes: nodes, cluster: cluster, says: client.NewRecorder(c.As(Name), Name, "")}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Workers: 1, Mirrors: []reconcile.Mirror{nodes}, Logger: log})
	nodes.OnChange(func(c informer.Change[*v1.Node]) {
		if c.Old == nil || c.New == nil { // heartbeats change no subnets
			r.loop.Enqueue(api.Key{Name: "nodes"}, c.Revision)
		}
	})
	return r
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.says.Run(ctx) })
	defer wg.Wait()
	return r.loop.Run(ctx)
}

func (r *Controller) reconcile(ctx context.Context, _ api.Key) (reconcile.Result, error) {
	var failed []error
	for name, subnet := range Plan(r.cluster, r.nodes.List()) {
		n, ok := r.nodes.Get(api.Key{Name: name})
		if !ok {
			continue
		}
		if !subnet.IsValid() {
			r.says.Event(ctx, n, api.EventNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
			continue
		}
		n = api.Clone(n)
		n.Spec.PodCidr, n.Spec.PodCidrs = subnet.String(), []string{subnet.String()}
		ctx := client.WithCause(ctx, "SubnetGiven", "the pods of node %s get addresses of %s", name, subnet)
		if _, err := client.For[*v1.Node](r.c).Update(ctx, n); !errors.Is(err, api.ErrNotFound) {
			failed = append(failed, err)
		}
	}
	return reconcile.Result{}, errors.Join(failed...)
}
