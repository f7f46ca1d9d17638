package apiserver

import (
	"context"
	"maps"
	"runtime"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// cluster is the Cluster service.
type cluster struct {
	v1.UnimplementedClusterServer
	s *Server
}

// nodesOnly refuses who is no node. What nodes may ask of this service is not in
// any role: nobody else has a use for it.
func nodesOnly(ctx context.Context) error {
	me := callerOf(ctx)
	if me.NodeName() == "" {
		return api.Errorf(api.ErrForbidden, "this is for nodes alone, and %q is none", me.Name)
	}
	noteOf(ctx).object(kindNode, "", me.NodeName())
	return nil
}

// Version says which build serves.
func (c *cluster) Version(context.Context, *v1.VersionRequest) (*v1.VersionResponse, error) {
	return &v1.VersionResponse{GitVersion: c.s.version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}, nil
}

// Peers sends all nodes, and all of them again whenever one is another.
func (c *cluster) Peers(_ *v1.PeersRequest, stream grpc.ServerStreamingServer[v1.PeersResponse]) error {
	ctx, s := stream.Context(), c.s
	if err := nodesOnly(ctx); err != nil {
		return err
	}
	f := &filter{kind: kindNode}
	at := s.store.Revision()
	peers := map[string]*v1.Peer{}
	for e, err := range s.scan(ctx, f, at, "") {
		if err != nil {
			return err
		}
		if _, err := s.meet(peers, e); err != nil {
			return err
		}
	}
	w := s.store.Watch(f.topic(), at)
	defer w.Close()
	for changed := true; ; {
		if changed {
			answer := &v1.PeersResponse{Gossip: s.gossip}
			for _, name := range slices.Sorted(maps.Keys(peers)) {
				answer.Peers = append(answer.Peers, peers[name])
			}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		entries, err := w.Next(ctx)
		if err != nil {
			return storeError(err, kindNode, "")
		}
		changed = false
		for _, e := range entries {
			news, err := s.meet(peers, e)
			if err != nil {
				return err
			}
			changed = changed || news
		}
	}
}

// meet takes an entry about a node in, and says whether it was news to the nodes.
func (s *Server) meet(peers map[string]*v1.Peer, e store.Entry) (bool, error) {
	_, _, name := splitKey(e.Key)
	if e.Deleted {
		_, known := peers[name]
		delete(peers, name)
		return known, nil
	}
	o, err := s.object(e)
	if err != nil {
		return false, err
	}
	n, _ := o.(*v1.Node)
	p := &v1.Peer{Name: name, Address: api.NodeAddress(n, api.NodeInternalIP), PodCidr: n.GetSpec().GetPodCidr()}
	if proto.Equal(peers[name], p) {
		return false, nil
	}
	peers[name] = p
	return true, nil
}
