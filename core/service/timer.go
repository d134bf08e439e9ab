package service

import (
	"context"
	"time"
)

// Timers returns the active timers whose names match a pattern, such as backup@*.timer, each with the time at which it
// elapses next. The time is zero if it never elapses again.
func (s *Systemd) Timers(ctx context.Context, pattern string) (map[string]time.Time, error) {
	names, err := s.bus.loadedUnits(ctx, pattern)
	if err != nil {
		return nil, busFault(ctx, err, "ask systemd for %s", pattern)
	}
	due := map[string]time.Time{}
	for _, name := range names {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if u.isDown() {
			continue
		}
		value, err := s.bus.property(ctx, name, "Timer", "NextElapseUSecRealtime")
		if err != nil {
			return nil, busFault(ctx, err, "ask systemd when %s is due", name)
		}
		due[name] = time.Time{}
		if at, ok := value.(uint64); ok && at > 0 && at < 1<<62 { // systemd.time(7): all bits set is never
			due[name] = time.UnixMicro(int64(at))
		}
	}
	return due, nil
}
