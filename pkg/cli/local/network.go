package local

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// chooseNetwork gives a cluster with the native network its subnet, and refuses
// what cannot be.
func (c *Cluster) chooseNetwork(st *state, o Options) (err error) {
	isNative := o.Network == Native || o.Network == "" && st.Subnet != ""
	switch {
	case st.UID != "" && isNative != (st.Subnet != ""):
		return fmt.Errorf("cluster %q exists with another --network: take it down first ('orchctl down --name %s'), or choose another --name", c.Name, c.Name)
	case !isNative && o.Network != Docker && o.Network != "":
		return fmt.Errorf("unknown network %q: use docker or native", o.Network)
	case !isNative:
		return nil
	case o.Runtime != Docker:
		return errors.New("simulated containers have no network: --network native needs --runtime docker")
	case os.Geteuid() != 0:
		return errors.New("--network native makes bridges and routes on this machine, which needs root (and Linux)")
	case st.Subnet == "":
		st.Subnet, err = c.freeSubnet()
	}
	return err
}

// freeSubnet is one that neither this machine nor another cluster on it uses.
func (c *Cluster) freeSubnet() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	used := []string{}
	for _, a := range addresses {
		used = append(used, a.String())
	}
	names, err := Names(c.home)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if st, err := (&Cluster{Name: name, home: c.home}).load(); err == nil {
			used = append(used, st.Subnet)
		}
	}
	for i := range 100 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(144 + (100+i)%112), 0, 0}), 16)
		free := true
		for _, text := range used {
			if p, err := netip.ParsePrefix(text); err == nil && p.Overlaps(subnet) {
				free = false
			}
		}
		if free {
			return subnet.String(), nil
		}
	}
	return "", errors.New("no subnet 10.x.0.0/16 is free on this machine")
}
