package journey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Status describes a run under way.
type Status struct {
	ID      string   `json:"id"`
	Kind    string   `json:"kind"`
	Title   string   `json:"title"`
	Set     string   `json:"name,omitempty"`
	Unit    string   `json:"unit"`              // the name of its systemd unit
	Begun   string   `json:"begun"`             // RFC 3339
	Label   string   `json:"label,omitempty"`   // of the progress, as are Percent and Bytes
	Percent *float64 `json:"percent,omitempty"` // nil if it is unknown
	Bytes   int64    `json:"bytes,omitempty"`
}

// Current lists the runs under way on this server, oldest first. A run that was killed is in the list until its unit
// has settled it. One that has done its work is not, although its unit is active for some seconds more. If no run was
// started since the boot, Current needs no systemd. Its faults are internal, and those of service.Connect.
func Current(ctx context.Context) ([]Status, error) {
	all := []Status{}
	dirs, err := runDirs()
	if len(dirs) == 0 {
		return all, err // without a connection to systemd, which this server may not have
	}
	systemd, err := service.Connect(ctx)
	if err != nil {
		return all, err
	}
	defer systemd.Close()
	active, _, err := splitActive(ctx, systemd, dirs)
	if len(active) == 0 {
		return all, err
	}
	entries, journalErr := journal.Read(JournalDir)
	for _, id := range active {
		if journalErr == nil && isDone(runDir(id), entries) {
			continue
		}
		if s, ok := readStatus(runDir(id)); ok {
			all = append(all, s)
		}
	}
	return all, err
}

// isDone reports whether the run in dir has done its work: it has answered, and none of its journal entries is
// unfinished. A run that goes on after its answer, as a rollback does until the merges are finished, has such
// an entry. What follows in the unit is its ExecStopPost=, which asks LVM and the kernel whether anything is to be
// settled. That takes some seconds, and is no work of this run.
func isDone(dir string, entries []*journal.Entry) bool {
	_, err := os.Stat(filepath.Join(dir, "result"))
	isOpen := func(e *journal.Entry) bool {
		return e.Outcome == journal.Unfinished && isEntryOf(e, filepath.Base(dir))
	}
	return err == nil && !slices.ContainsFunc(entries, isOpen)
}

// runDirs returns the directories of all runs, under way or ended, oldest first.
func runDirs() ([]fs.DirEntry, error) {
	dirs, err := os.ReadDir(filepath.Join(RuntimeDir, "journey"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Internal, "list the runs: %w", err)
	}
	return dirs, nil
}

// splitActive returns the ids of the runs whose units are active, and the directories of the runs that have ended.
func splitActive(
	ctx context.Context, systemd *service.Systemd, dirs []fs.DirEntry,
) (active []string, ended []fs.DirEntry, err error) {
	for _, d := range dirs {
		isActive, err := systemd.Active(ctx, unitOf(d.Name()))
		if err != nil {
			return nil, nil, err
		}
		if isActive {
			active = append(active, d.Name())
		} else {
			ended = append(ended, d)
		}
	}
	return active, ended, nil
}

// readStatus reads the request and the progress of the run in dir. It returns false if the directory was removed.
func readStatus(dir string) (Status, bool) {
	id, file := filepath.Base(dir), filepath.Join(dir, "request")
	data, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	var r request
	if err != nil || statErr != nil || json.Unmarshal(data, &r) != nil {
		return Status{}, false
	}
	begun := info.ModTime().UTC().Format(time.RFC3339)
	s := Status{ID: id, Unit: unitOf(id), Kind: r.Kind, Title: r.Title, Set: r.Set, Begun: begun}
	showProgress(dir, func(p Progress) {
		s.Label, s.Bytes = p.Label, p.Bytes
		if p.Percent >= 0 {
			s.Percent = &p.Percent
		}
	})
	return s, true
}
