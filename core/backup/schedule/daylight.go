package schedule

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
)

// spring is a moment at which a clock is put forward. Times of the clock are written as if they were UTC.
type spring struct{ from, to time.Time }

// soonEnough is how soon another backup must be due for one that falls out to be of no consequence.
const soonEnough = 12 * time.Hour

// SkippedWarning warns of a calendar that names a time in the coming year that the clock skips when daylight-saving
// time begins, such as 02:00: systemd makes no backup in that night. It is empty if there is none, or if the calendar
// has another time within half a day, or if that cannot be found out.
func (p Places) SkippedWarning(ctx context.Context, calendar string, now time.Time) string {
	zone, times := p.zoneOf(calendar)
	for _, s := range springs(zone, now, now.AddDate(1, 0, 0)) {
		due := p.elapses(ctx, times, s.from)
		if len(due) == 0 || !due[0].Before(s.to) || len(due) > 1 && due[1].Sub(due[0]) < soonEnough {
			continue
		}
		return fmt.Sprintf("calendar: on %s the clock goes from %s to %s, and no backup is made at %s: "+
			"choose a time that every day has, such as 04:00",
			s.from.Format(time.DateOnly), clock(s.from), clock(s.to), clock(due[0]))
	}
	return ""
}

func clock(t time.Time) string { return t.Format("15:04") }

// zoneOf returns the time zone of a calendar, which is the server's if it names none, and the calendar without it.
func (p Places) zoneOf(calendar string) (zone *time.Location, times string) {
	words := strings.Fields(calendar)
	if last := len(words) - 1; last > 0 {
		if zone, err := time.LoadLocation(words[last]); err == nil {
			return zone, strings.Join(words[:last], " ")
		}
	}
	data, err := os.ReadFile(p.Zone) // not time.Local, which is that of a login's TZ; systemd does not know it
	if err == nil {
		zone, err = time.LoadLocationFromTZData(p.Zone, data)
	}
	if err != nil {
		return time.UTC, calendar // as systemd takes it
	}
	return zone, calendar
}

// springs returns the moments between two times at which the clocks of a zone are put forward.
func springs(zone *time.Location, after, until time.Time) (all []spring) {
	for t := after; ; {
		_, end := t.In(zone).ZoneBounds()
		if end.IsZero() || end.After(until) {
			return all
		}
		s := spring{from: wall(end.Add(-time.Second)).Add(time.Second), to: wall(end)}
		if s.from.Before(s.to) {
			all = append(all, s)
		}
		t = end
	}
}

// wall returns what a clock shows at t, as if it were UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// elapses returns the next two times of a calendar, from this one on, on a clock that is never changed.
func (p Places) elapses(ctx context.Context, times string, from time.Time) (due []time.Time) {
	base := from.Add(-time.Second).Format(time.DateTime)
	out, err := p.Commands.Run(ctx, command.Cmd{
		Argv: []string{"systemd-analyze", "calendar", "--base-time=" + base, "--iterations=2", "--", times},
		Env:  []string{"TZ=UTC"},
	})
	if err != nil {
		return nil
	}
	for line := range strings.Lines(out.Stdout) {
		words := strings.Fields(line) // Next elapse: Sun 2027-03-28 02:00:00 UTC; Iter. #2: Mon ...
		if n := len(words); n == 6 && (words[0] == "Next" || words[0] == "Iter.") {
			if t, err := time.Parse(time.DateTime, words[3]+" "+words[4]); err == nil {
				due = append(due, t)
			}
		}
	}
	return due
}
