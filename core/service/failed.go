package service

import (
	"context"
	"time"
)

// Failed returns the units whose names match a pattern, such as backup@*.service, and whose last run failed, each with
// the time at which that run began.
func (s *Systemd) Failed(ctx context.Context, pattern string) (map[string]time.Time, error) {
	units, err := s.matching(ctx, pattern)
	failed := map[string]time.Time{}
	for _, u := range units {
		if u.active == "failed" {
			failed[u.name] = u.lastStart
		}
	}
	return failed, err
}

// matching returns the loaded units whose names match a pattern; none with an error.
func (s *Systemd) matching(ctx context.Context, pattern string) ([]unit, error) {
	names, err := s.bus.LoadedUnits(ctx, pattern)
	if err != nil {
		return nil, busFault(ctx, err, "ask systemd for %s", pattern)
	}
	var units []unit
	for _, name := range names {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	return units, nil
}
