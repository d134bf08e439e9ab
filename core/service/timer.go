package service

import (
	"context"
	"time"
)

// Timers returns the active timers whose names match a pattern, such as backup@*.timer, each with the time at which it
// elapses next. The time is zero if it never elapses again.
func (s *Systemd) Timers(ctx context.Context, pattern string) (map[string]time.Time, error) {
	units, err := s.matching(ctx, pattern)
	if err != nil {
		return nil, err
	}
	due := map[string]time.Time{}
	for _, u := range units {
		if u.isDown() {
			continue
		}
		value, err := s.bus.Property(ctx, u.name, "Timer", "NextElapseUSecRealtime")
		if err != nil {
			return nil, busFault(ctx, err, "ask systemd when %s is due", u.name)
		}
		due[u.name] = time.Time{}
		if at, ok := value.(uint64); ok && at > 0 && at < 1<<62 { // systemd.time(7): all bits set is never
			due[u.name] = time.UnixMicro(int64(at))
		}
	}
	return due, nil
}
