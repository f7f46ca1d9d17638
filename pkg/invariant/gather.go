package invariant

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Read shows the checker a part of the log, without the heartbeats of nodes. The
// first part begins with what there was before it, so that the log need not reach
// back to its beginning. It returns the first and the last revision that it has
// read; 0 where there was none.
func (c *Checker) Read(ctx context.Context, cl *client.Client, r *v1.HistoryRequest) (first, last int64, err error) {
	r.ExceptReasons = []string{"Heartbeat"}
	for e, err := range cl.History(ctx, r) {
		if err != nil {
			return first, last, err
		}
		if first == 0 {
			first = e.GetRevision()
			if c.entries == 0 && first > 1 {
				before, err := Before(ctx, cl, "", first-1)
				if err != nil {
					return first, last, err
				}
				for _, o := range before {
					c.Seed(o)
				}
			}
		}
		c.Check(e)
		last = e.GetRevision()
	}
	return first, last, nil
}

// Before is all that there was of [Kinds] at a revision, in one namespace or ("") at
// all, as [Checker.Seed] wants it.
func Before(ctx context.Context, cl *client.Client, namespace string, at int64) (all []api.Object, err error) {
	for _, name := range Kinds {
		kind := api.KindByName(name)
		if namespace != "" && !kind.Namespaced {
			continue
		}
		l, err := client.ForKind(cl, kind).List(ctx, client.ListOptions{Namespace: namespace, At: at})
		if err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
	}
	return all, nil
}

// Look asks for all pods, and each node's agent for what its engine has. Those
// that do not answer are in failed.
func Look(ctx context.Context, cl *client.Client) (pods []*v1.Pod, nodes map[string][]*v1.NodeContainer, failed map[string]error, err error) {
	all, err := client.For[*v1.Node](cl).List(ctx, client.ListOptions{})
	if err != nil {
		return nil, nil, nil, err
	}
	list, err := client.For[*v1.Pod](cl).List(ctx, client.ListOptions{})
	if err != nil {
		return nil, nil, nil, err
	}
	nodes, failed = map[string][]*v1.NodeContainer{}, map[string]error{}
	var mu sync.Mutex
	var asking errgroup.Group
	asking.SetLimit(50)
	for _, n := range all.Items {
		asking.Go(func() error {
			name := n.GetMetadata().GetName()
			answer, err := cl.Streams().Containers(ctx, &v1.ContainersRequest{Node: name})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[name] = api.FromStatus(err)
				return nil
			}
			nodes[name] = answer.GetContainers()
			return nil
		})
	}
	_ = asking.Wait() // nobody returns an error
	return list.Items, nodes, failed, ctx.Err()
}
