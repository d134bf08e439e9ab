package service

import (
	"context"
	"time"
)

// Failed returns the units whose names match a pattern, such as backup@*.service, and whose last run failed, each with
// the time at which that run began.
func (s *Systemd) Failed(ctx context.Context, pattern string) (map[string]time.Time, error) {
	names, err := s.bus.loadedUnits(ctx, pattern)
	if err != nil {
		return nil, busFault(ctx, err, "ask systemd for %s", pattern)
	}
	failed := map[string]time.Time{}
	for _, name := range names {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		if u.active == "failed" {
			failed[name] = u.lastStart
		}
	}
	return failed, nil
}
