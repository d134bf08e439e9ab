package service

import "context"

// ListensAt returns the socket unit for which systemd listens at a path. It returns an empty string if there is none.
func (s *Systemd) ListensAt(ctx context.Context, path string) (string, error) {
	names, err := s.bus.LoadedUnits(ctx, "*.socket")
	if err != nil {
		return "", busFault(ctx, err, "list systemd's sockets")
	}
	for _, name := range names {
		listens, err := s.bus.Property(ctx, name, "Socket", "Listen")
		if err != nil {
			return "", busFault(ctx, err, "ask systemd about %s", name)
		}
		all, _ := listens.([]any)
		for _, one := range all {
			pair, _ := one.([]any) // the type of the socket, such as Stream, and the address
			if len(pair) == 2 && pair[1] == path {
				return name, nil
			}
		}
	}
	return "", nil
}

// CanStop reports whether a unit is a service or a socket that runs and may be stopped.
func (s *Systemd) CanStop(ctx context.Context, name string) (bool, error) {
	if s.Protected(name) || typeOf(name) != "service" && typeOf(name) != "socket" {
		return false, nil
	}
	u, err := s.unit(ctx, name)
	return err == nil && u.load == "loaded" && u.isUp(), err
}
