package journey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service"
)

// Status is a journey under way, as it tells of itself.
type Status struct {
	ID      string   `json:"id"`
	Kind    string   `json:"kind"`
	Title   string   `json:"title"`
	Set     string   `json:"name,omitempty"`
	Unit    string   `json:"unit"`  // of systemd
	Begun   string   `json:"begun"` // RFC 3339
	Label   string   `json:"label,omitempty"`
	Percent *float64 `json:"percent,omitempty"` // nil where there is no measure
	Bytes   int64    `json:"bytes,omitempty"`
}

// Current lists the journeys under way on this server, the oldest first. One that was killed is among them as long as
// it is being settled.
func Current(ctx context.Context) ([]Status, error) {
	all := []Status{}
	dirs, err := journeys()
	if len(dirs) == 0 {
		return all, err // also where there is no systemd
	}
	systemd, err := service.Connect(ctx)
	if err != nil {
		return all, err
	}
	defer systemd.Close()
	active, _, err := sorted(ctx, systemd, dirs)
	for _, id := range active {
		if s, ok := status(journeyDir(id)); ok {
			all = append(all, s)
		}
	}
	return all, err
}

// journeys are the directories of all journeys, under way or ended, the oldest first.
func journeys() ([]fs.DirEntry, error) {
	dirs, err := os.ReadDir(filepath.Join(Run, "journey"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Internal, "journeys: %w", err)
	}
	return dirs, nil
}

// sorted tells the ids of the journeys under way from the directories that ended ones left.
func sorted(ctx context.Context, systemd *service.Systemd, dirs []fs.DirEntry) (active []string, ended []fs.DirEntry, err error) {
	for _, d := range dirs {
		up, err := systemd.Active(ctx, unitOf(d.Name()))
		if err != nil {
			return nil, nil, err
		}
		if up {
			active = append(active, d.Name())
		} else {
			ended = append(ended, d)
		}
	}
	return active, ended, nil
}

// status reads what a journey is and how far; false if it is gone meanwhile.
func status(dir string) (Status, bool) {
	id, file := filepath.Base(dir), filepath.Join(dir, "request")
	data, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	var r request
	if err != nil || statErr != nil || json.Unmarshal(data, &r) != nil {
		return Status{}, false
	}
	begun := info.ModTime().UTC().Format(time.RFC3339)
	s := Status{ID: id, Unit: unitOf(id), Kind: r.Kind, Title: r.Title, Set: r.Set, Begun: begun}
	notice(dir, func(p Progress) {
		s.Label, s.Bytes = p.Label, p.Bytes
		if p.Percent >= 0 {
			s.Percent = &p.Percent
		}
	})
	return s, true
}
