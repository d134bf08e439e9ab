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

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/service"
)

// The states of a job, which are those of its last run.
const (
	backupOK          = "ok"
	backupFailed      = "failed"
	backupRunning     = "running"
	backupInterrupted = "interrupted" // the run was killed, or the server crashed
)

// backup is a job with the results of its last backups.
type backup struct {
	jobs.Job
	State string `json:"state"`       // of the last run
	Age   *int64 `json:"age_seconds"` // of the last good backup; nil: there is none, or it is dated later than now
}

// readBackups returns all jobs of this server, or those with the name in the arguments. The error names the jobs that
// cannot be read; the others are returned.
func readBackups(current []journey.Status, a args) ([]backup, error) {
	all := []backup{}
	if a.VG != "" {
		return all, nil
	}
	list, err := jobs.Kept.Jobs()
	for _, j := range list {
		if a.Name == "" || a.Name == j.Name {
			all = append(all, withState(j, current, time.Now()))
		}
	}
	return all, err
}

// withState adds the state of the job and the age of its last good backup.
func withState(j jobs.Job, current []journey.Status, now time.Time) backup {
	b := backup{Job: j, State: backupOK}
	isOfJob := func(s journey.Status) bool { return s.Unit == j.Unit }
	switch {
	case j.Ended == "" && slices.ContainsFunc(current, isOfJob):
		b.State = backupRunning
	case j.Ended == "":
		b.State = backupInterrupted
	case j.Failed():
		b.State = backupFailed
	}
	if j.Good != nil {
		b.Age = secondsSince(j.Good.Time, now)
	}
	return b
}

// scheduledUnits is a pattern for the units of scheduled backups. The asterisk stands for the backup's name.
var scheduledUnits = strings.Replace(filepath.Base(journey.ScheduleUnit), "@", "@*", 1)

// scheduleTimers is a pattern for the timers of scheduled backups.
var scheduleTimers = strings.TrimSuffix(scheduledUnits, ".service") + ".timer"

// notBegun is a scheduled backup whose unit was started and began no backup: its program or its arguments could not be
// read.
type notBegun struct {
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	Since string `json:"since"` // when the unit was started, RFC 3339
}

// filterNotBegun returns the scheduled backups of which no backup was begun since their unit failed. failed has the
// units that failed, with the time of their start.
func filterNotBegun(failed map[string]time.Time, list []backup) []notBegun {
	all := []notBegun{}
	for _, unit := range slices.Sorted(maps.Keys(failed)) {
		name, since := backupName(unit, scheduledUnits), failed[unit]
		hasBegun := func(b backup) bool { // or one that was begun earlier and for whose end the unit has waited
			return b.Name == name && (isNotBefore(b.Begun, since) || isNotBefore(b.Ended, since))
		}
		if !slices.ContainsFunc(list, hasBegun) {
			all = append(all, notBegun{name, unit, since.UTC().Format(time.RFC3339)})
		}
	}
	return all
}

// dropIns is a pattern for the files that action=schedule writes and action=unschedule removes, one for each timer.
var dropIns = filepath.Join(filepath.Dir(journey.ScheduleUnit), scheduleTimers+".d", "when.conf")

// scheduledBackup is a backup that has a timer of systemd on this server, or should have one.
type scheduledBackup struct {
	Name    string `json:"name"`
	Timer   string `json:"timer"`
	Next    string `json:"next"`              // when the timer elapses next, RFC 3339; empty: never again
	Problem string `json:"problem,omitempty"` // why it is not made although nobody has ended the schedule
}

// withStopped adds to the timers that are due those that have a drop-in and are not active: somebody has stopped or
// masked them, a package was removed, or systemd could not start their service. It returns the names of these.
func withStopped(due map[string]time.Time, pattern string) (stopped []string) {
	files, _ := filepath.Glob(pattern) // the only error is that of a bad pattern
	for _, file := range files {
		unit := strings.TrimSuffix(filepath.Base(filepath.Dir(file)), ".d")
		if _, isActive := due[unit]; !isActive {
			due[unit] = time.Time{}
			stopped = append(stopped, unit)
		}
	}
	return stopped
}

// listScheduled describes the timers of scheduled backups. due has the time at which each elapses next, and stopped the
// names of those that are not active.
func listScheduled(due map[string]time.Time, stopped []string) []scheduledBackup {
	all := []scheduledBackup{}
	for _, unit := range slices.Sorted(maps.Keys(due)) { // code that sorts structs would make the program 10 KB larger
		s, next := scheduledBackup{Name: backupName(unit, scheduleTimers), Timer: unit}, due[unit]
		if slices.Contains(stopped, unit) {
			s.Problem = "its timer is not active: systemctl status " + unit
		}
		if !next.IsZero() {
			s.Next = next.UTC().Format(time.RFC3339)
		}
		all = append(all, s)
	}
	return all
}

// backupName returns the part of a unit's name that the asterisk of the pattern matches.
func backupName(unit, pattern string) string {
	before, after, _ := strings.Cut(pattern, "*")
	return strings.TrimSuffix(strings.TrimPrefix(unit, before), after)
}

// isNotBefore reports whether stamp is a time that is not before since, to the second.
func isNotBefore(stamp string, since time.Time) bool {
	t, err := time.Parse(time.RFC3339, stamp)
	return err == nil && !t.Before(since.Truncate(time.Second))
}

// readSchedules returns the scheduled backups of this server, those of them that did not begin, and warnings about what
// cannot be found out. Without systemd it returns none; the host's problems say that there is no systemd.
func readSchedules(
	ctx context.Context, list []backup, runsSystemd bool,
) (scheduled []scheduledBackup, unbegun []notBegun, warnings []string) {
	systemd, err := service.Connect(ctx)
	if err != nil && runsSystemd {
		warnings = []string{"which backups are scheduled, and whether they begin, cannot be found out: " + err.Error()}
	}
	if err != nil {
		return listScheduled(nil, nil), filterNotBegun(nil, list), warnings
	}
	defer systemd.Close()
	failed, err := systemd.Failed(ctx, scheduledUnits)
	if err != nil {
		warnings = append(warnings, "whether scheduled backups begin cannot be found out: "+err.Error())
	}
	due, err := systemd.Timers(ctx, scheduleTimers)
	if err != nil {
		warnings = append(warnings, "which backups are scheduled cannot be found out: "+err.Error())
		return listScheduled(nil, nil), filterNotBegun(failed, list), warnings
	}
	stopped := withStopped(due, dropIns)
	for unit := range failed {
		if _, isScheduled := due[strings.TrimSuffix(unit, ".service")+".timer"]; !isScheduled {
			delete(failed, unit)
		}
	}
	return listScheduled(due, stopped), filterNotBegun(failed, list), warnings
}

// secondsSince returns how many seconds ago a time was. It returns nil if stamp is no time or is later than now: a
// backup that was dated by a wrong clock must not look fresh.
func secondsSince(stamp string, now time.Time) *int64 {
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil || t.After(now) {
		return nil
	}
	seconds := int64(now.Sub(t).Seconds())
	return &seconds
}

func printScheduled(w io.Writer, list []scheduledBackup) {
	if len(list) > 0 {
		fmt.Fprintln(w, "\nscheduled backups")
	}
	for _, s := range list {
		next := "is not made any more"
		switch {
		case s.Problem != "":
			next = "is not made, " + s.Problem
		case s.Next != "":
			next = "is made at " + ansible.LocalTime(s.Next)
		}
		fmt.Fprintf(w, "  %s %s (%s)\n", s.Name, next, s.Timer)
	}
}

func printBackups(w io.Writer, list []backup) {
	if len(list) > 0 {
		fmt.Fprintln(w, "\nlast backups")
	}
	for _, b := range list {
		fmt.Fprintf(w, "  %s of %s with %s: %s", b.Name, strings.Join(b.Asked, ", "), b.Backend, b.State)
		switch b.State {
		case backupFailed:
			fmt.Fprintf(w, " at %s: %s", ansible.LocalTime(b.Ended), b.Msg)
		case backupRunning:
			fmt.Fprintf(w, " since %s", ansible.LocalTime(b.Begun))
		case backupInterrupted:
			fmt.Fprintf(w, ", begun at %s (journalctl -u %s)", ansible.LocalTime(b.Begun), b.Unit)
		}
		fmt.Fprintf(w, "; %s\n", b.goodText())
	}
}

func printNotBegun(w io.Writer, list []notBegun) {
	for _, u := range list {
		fmt.Fprintf(w, "  %s did not begin at %s: journalctl -u %s says why\n", u.Name, ansible.LocalTime(u.Since), u.Unit)
	}
}

// goodText says which is the last good backup.
func (b *backup) goodText() string {
	switch {
	case b.Good == nil:
		return "none was ever good (if this job is not wanted any more, remove " + b.File + ")"
	case b.Age == nil:
		return "the last good one, " + b.Good.ID + ", is dated later than now, " + ansible.LocalTime(b.Good.Time)
	}
	return "the last good one, " + b.Good.ID + ", is " + ansible.Age(*b.Age) + " old"
}
