package api

import v1 "orch/proto/v1"

// RolloutAllowance says how far a Deployment's rollout may go: surge pods above its
// replicas, unavailable below them. Percentages are of the replicas, surge rounded
// up and unavailable down. Where both come out as 0 nothing could ever move, so one
// pod may be unavailable. Recreate has neither.
func RolloutAllowance(d *v1.Deployment) (surge, unavailable int32) {
	wanted, strategy := d.GetSpec().GetReplicas(), d.GetSpec().GetStrategy()
	if strategy.GetType() == StrategyRecreate || wanted == 0 {
		return 0, 0
	}
	// The errors are those of values that validation refuses.
	surge, _ = ScaledValue(strategy.GetRollingUpdate().GetMaxSurge(), wanted, true)
	unavailable, _ = ScaledValue(strategy.GetRollingUpdate().GetMaxUnavailable(), wanted, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, wanted)
}
