package info

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
)

// The states of a job of backups.
const (
	backupOK          = "ok"
	backupFailed      = "failed"
	backupRunning     = "running"
	backupInterrupted = "interrupted" // it was killed, or the server was
)

// backup is what came of the last backups of one job.
type backup struct {
	jobs.Job
	State string `json:"state"`       // of the last run
	Age   *int64 `json:"age_seconds"` // of the last good one; nil: there is none
}

// backups are all jobs of this server, or those of one set's name. The error names what cannot be read of them.
func backups(current []journey.Status, a args) ([]backup, error) {
	all := []backup{}
	if a.VG != "" {
		return all, nil
	}
	list, err := jobs.Kept.Jobs()
	for _, j := range list {
		if a.Name == "" || a.Name == j.Name {
			all = append(all, judged(j, current, time.Now()))
		}
	}
	return all, err
}

func judged(j jobs.Job, current []journey.Status, now time.Time) backup {
	b := backup{Job: j, State: backupOK}
	mine := func(s journey.Status) bool { return s.Unit == j.Unit }
	switch {
	case j.Ended == "" && slices.ContainsFunc(current, mine):
		b.State = backupRunning
	case j.Ended == "":
		b.State = backupInterrupted
	case j.Failed():
		b.State = backupFailed
	}
	if j.Good != nil {
		b.Age = since(j.Good.Time, now)
	}
	return b
}

// scheduled matches the units of scheduled backups, with the backup's name in the place of the asterisk.
var scheduled = strings.Replace(filepath.Base(journey.ScheduleUnit), "@", "@*", 1)

// notBegun is a scheduled backup whose last start came to none: its program or its arguments could not be read.
type notBegun struct {
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	Since string `json:"since"` // RFC 3339
}

// notBegunOf are those of the units that failed, each since a time, of which no backup was begun then or later.
func notBegunOf(failed map[string]time.Time, list []backup) []notBegun {
	all := []notBegun{}
	for _, unit := range slices.Sorted(maps.Keys(failed)) {
		name, since := nameIn(unit, scheduled), failed[unit]
		begun := func(b backup) bool { // one that was begun before may have been joined
			return b.Name == name && (reached(b.Begun, since) || reached(b.Ended, since))
		}
		if !slices.ContainsFunc(list, begun) {
			all = append(all, notBegun{name, unit, since.UTC().Format(time.RFC3339)})
		}
	}
	return all
}

// scheduledBackup is a backup that systemd makes on this server.
type scheduledBackup struct {
	Name  string `json:"name"`
	Timer string `json:"timer"`
	Next  string `json:"next"` // RFC 3339; empty: never again
}

// schedules are the backups of this server that are scheduled; none where there is no systemd.
func schedules(ctx context.Context) ([]scheduledBackup, error) {
	all := []scheduledBackup{}
	systemd, err := service.Connect(ctx)
	if err != nil {
		return all, nil
	}
	defer systemd.Close()
	pattern := strings.TrimSuffix(scheduled, ".service") + ".timer"
	due, err := systemd.Timers(ctx, pattern)
	for _, unit := range slices.Sorted(maps.Keys(due)) { // sorting structs would be 10 KB of the program
		s, next := scheduledBackup{Name: nameIn(unit, pattern), Timer: unit}, due[unit]
		if !next.IsZero() {
			s.Next = next.UTC().Format(time.RFC3339)
		}
		all = append(all, s)
	}
	return all, err
}

// nameIn is what stands for the asterisk of a pattern.
func nameIn(unit, pattern string) string {
	before, after, _ := strings.Cut(pattern, "*")
	return strings.TrimSuffix(strings.TrimPrefix(unit, before), after)
}

func reached(stamp string, since time.Time) bool {
	t, err := time.Parse(time.RFC3339, stamp)
	return err == nil && !t.Before(since.Truncate(time.Second))
}

// failedStarts are those of this server; none where there is no systemd, which the host's problems tell.
func failedStarts(ctx context.Context, list []backup) ([]notBegun, error) {
	systemd, err := service.Connect(ctx)
	if err != nil {
		return []notBegun{}, nil
	}
	defer systemd.Close()
	failed, err := systemd.Failed(ctx, scheduled)
	for unit := range failed {
		on, unknown := systemd.Active(ctx, strings.TrimSuffix(unit, ".service")+".timer")
		if unknown == nil && !on { // it is not scheduled any more
			delete(failed, unit)
		}
	}
	return notBegunOf(failed, list), err
}

// since is how many seconds ago a time was; nil if it is none, or lies ahead: a clock that is wrong makes nothing fresh.
func since(stamp string, now time.Time) *int64 {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil || t.After(now) {
		return nil
	}
	seconds := int64(now.Sub(t).Seconds())
	return &seconds
}

// local shows a time of the result where the server is.
func local(stamp string) string {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return stamp
	}
	return t.Local().Format(time.RFC3339)
}

func showScheduled(w io.Writer, list []scheduledBackup) {
	if len(list) > 0 {
		fmt.Fprintln(w, "\nscheduled backups")
	}
	for _, s := range list {
		next := "is not made any more"
		if s.Next != "" {
			next = "is made at " + local(s.Next)
		}
		fmt.Fprintf(w, "  %s %s (%s)\n", s.Name, next, s.Timer)
	}
}

func showBackups(w io.Writer, list []backup) {
	if len(list) > 0 {
		fmt.Fprintln(w, "\nlast backups")
	}
	for _, b := range list {
		fmt.Fprintf(w, "  %s of %s with %s: %s", b.Name, strings.Join(b.Asked, ", "), b.Backend, b.State)
		switch b.State {
		case backupFailed:
			fmt.Fprintf(w, " at %s: %s", local(b.Ended), b.Msg)
		case backupRunning:
			fmt.Fprintf(w, " since %s", local(b.Begun))
		case backupInterrupted:
			fmt.Fprintf(w, ", begun at %s (journalctl -u %s)", local(b.Begun), b.Unit)
		}
		fmt.Fprintf(w, "; %s\n", b.good())
	}
}

func showNotBegun(w io.Writer, list []notBegun) {
	for _, u := range list {
		fmt.Fprintf(w, "  %s did not begin at %s: journalctl -u %s says why\n", u.Name, local(u.Since), u.Unit)
	}
}

// good says which the last good backup is.
func (b *backup) good() string {
	switch {
	case b.Good == nil:
		return "none was ever good (if it is not to be made, remove " + b.File + ")"
	case b.Age == nil:
		return "the last good one, " + b.Good.ID + ", is dated later than now, " + local(b.Good.Time)
	}
	return "the last good one, " + b.Good.ID + ", is " + age(*b.Age) + " old"
}
