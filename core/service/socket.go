package service

import "context"

// ListensAt returns the socket unit for which systemd listens at a path; empty if there is none.
func (s *Systemd) ListensAt(ctx context.Context, path string) (string, error) {
	names, err := s.bus.loaded(ctx, "*.socket")
	if err != nil {
		return "", busFault(ctx, err, "list systemd's sockets")
	}
	for _, name := range names {
		listens, err := s.bus.property(ctx, name, "Socket", "Listen")
		if err != nil {
			return "", busFault(ctx, err, "ask systemd about %s", name)
		}
		all, _ := listens.([]any)
		for _, one := range all {
			pair, _ := one.([]any) // its type, such as Stream, and its address
			if len(pair) == 2 && pair[1] == path {
				return name, nil
			}
		}
	}
	return "", nil
}

// CanStop tells whether a unit runs and may be stopped.
func (s *Systemd) CanStop(ctx context.Context, name string) (bool, error) {
	if s.Protected(name) || kindOf(name) != "service" && kindOf(name) != "socket" {
		return false, nil
	}
	u, err := s.unit(ctx, name)
	return err == nil && u.load == "loaded" && u.up(), err
}
