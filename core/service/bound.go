package service

import (
	"context"
	"slices"
)

// BoundTo returns the active units that systemd stops as soon as one of the given units is gone, whatever made it go:
// those with BindsTo=, such as a service on a mount that is unmounted. systemd does not start them when the given unit
// comes back. Mounts, targets and protected units are left out.
func (s *Systemd) BoundTo(ctx context.Context, units []string) ([]string, error) {
	var bound []string
	for _, name := range units {
		u, err := s.unit(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, other := range u.boundBy {
			if !mayStopUnnamed(other) || s.Protected(other) || slices.Contains(bound, other) {
				continue
			}
			up, err := s.Active(ctx, other)
			if err != nil {
				return nil, err
			}
			if up {
				bound = append(bound, other)
			}
		}
	}
	return bound, nil
}
