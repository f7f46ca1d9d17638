package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"orch/pkg/api"
	"orch/pkg/controller"
)

// failoverRounds is how often an agent is killed; each needs a new one after it.
const failoverRounds = 5

// rulesSlack is what the gossip may take longer than the lease is late.
const rulesSlack = 500 * time.Millisecond

// failover kills an agent and measures until all replicas are ready on the other
// nodes: the death is noticed by gossip and lease, the pods tolerate the lost node
// for a second, and others start. Beside it stands what the rules of
// docs/membership.md allow at most for the first two. The machine of the agent goes
// on, so its engine's containers do too; a lab of machines has them die as well.
func (b *bench) failover(ctx context.Context) error {
	c, err := b.up(ctx)
	if err != nil {
		return err
	}
	defer c.down(ctx)
	if _, _, err := c.running(ctx, "failover", 6); err != nil {
		return err
	}
	var took []time.Duration
	for i := range failoverRounds {
		node := fmt.Sprintf("node-%d", 1+i%3)
		pids, err := c.pids()
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := syscall.Kill(pids[node], syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the agent of %s: %w", node, err)
		}
		if _, err := readyPods(ctx, c.client, "", node, 6); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := c.orchctl(ctx, "", "up", "--name", clusterName); err != nil {
			return err
		}
		if _, err := readyPods(ctx, c.client, "", "", 6); err != nil {
			return err
		}
	}
	rule := controller.DefaultLeaseGrace + api.DefaultUnreachableSeconds*time.Second
	b.under(fmt.Sprintf("failover: agent killed → its pods ready elsewhere (the rules alone: at most about %v)", rule+rulesSlack), "s", median(took).Seconds(), 5)
	return nil
}
