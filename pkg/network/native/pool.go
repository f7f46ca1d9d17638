package native

import (
	"net/netip"
	"slices"
)

// pool gives out the addresses of a subnet. The one that became free last is
// given last, because packets for whoever had it may still be on their way.
type pool struct {
	subnet netip.Prefix
	free   []netip.Addr
}

// gateway is the subnet's first address, the bridge's own.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// newPool has all of a subnet but its name, the gateway, the last address, which
// is for broadcasts, and those in use. It begins after the one of these that was
// given last, which comes last in the list.
func newPool(subnet netip.Prefix, used []netip.Addr) *pool {
	p := &pool{subnet: subnet}
	first := 0
	for a := gateway(subnet).Next(); subnet.Contains(a.Next()); a = a.Next() {
		if slices.Contains(used, a) {
			if a == used[len(used)-1] {
				first = len(p.free)
			}
			continue
		}
		p.free = append(p.free, a)
	}
	p.free = slices.Concat(p.free[first:], p.free[:first])
	return p
}

// take returns an address; false where none is free.
func (p *pool) take() (netip.Addr, bool) {
	if len(p.free) == 0 {
		return netip.Addr{}, false
	}
	a := p.free[0]
	p.free = p.free[1:]
	return a, true
}

// use takes a certain address, which may not be free, or not the pool's.
func (p *pool) use(a netip.Addr) {
	p.free = slices.DeleteFunc(p.free, func(f netip.Addr) bool { return f == a })
}

// put gives an address back.
func (p *pool) put(a netip.Addr) {
	if p.subnet.Contains(a) && !slices.Contains(p.free, a) {
		p.free = append(p.free, a)
	}
}
