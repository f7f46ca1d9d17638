package fault

import (
	"sync"
	"time"
)

// Clock is what the agent believes that the time is: the machine's, or another one
// while a ShiftClock lasts.
//
// Only what is compared or shared with others is read from it: the times in statuses,
// conditions and events. How long something takes is measured as the machine does,
// which no setting of a clock changes.
//
// Concurrency: all methods may be called from several goroutines.
type Clock struct {
	mu     sync.Mutex
	shifts map[string]time.Duration // by uid of the injection
}

// Shift is how far the clock is ahead; negative: behind. A nil clock is right.
func (c *Clock) Shift() (sum time.Duration) {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.shifts {
		sum += d
	}
	return sum
}

// Now is what the clock shows, without a monotonic reading where it is wrong.
func (c *Clock) Now() time.Time {
	shift := c.Shift()
	if shift == 0 {
		return time.Now()
	}
	return time.Now().Round(0).Add(shift)
}

// set makes an injection's shift d; 0 ends it.
func (c *Clock) set(uid string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d == 0 {
		delete(c.shifts, uid)
		return
	}
	if c.shifts == nil {
		c.shifts = map[string]time.Duration{}
	}
	c.shifts[uid] = d
}
