package schedule

import (
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
)

// In the night in which clocks are put forward there is no 02:00, and systemd makes no backup at that time. The tool of
// systemd is the real one, because the warning is about what it takes for the next time.
func TestTimesThatTheClockSkipsAreNamed(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ zone, calendar, want string }{
		{"Europe/Berlin", "02:00", "on 2027-03-28 the clock goes from 02:00 to 03:00, and no backup is made at 02:00"},
		{"Europe/Berlin", "02:59", "no backup is made at 02:59"},
		{"Europe/Berlin", "03:00", ""}, {"Europe/Berlin", "01:59", ""}, {"Europe/Berlin", "04:00", ""},
		{"Europe/Berlin", "Mon..Fri 02:00", ""}, {"Europe/Berlin", "Sun 02:30", "on 2027-03-28"},
		{"Europe/Berlin", "hourly", ""}, {"Europe/Berlin", "*-*-* 02,14:00", "no backup is made at 02:00"},
		{"Europe/Berlin", "*-*-* 02/2:00", ""}, {"Europe/Berlin", "2027-03-28 02:30", "on 2027-03-28"},
		{"Europe/Berlin", "02:00 UTC", ""}, {"UTC", "02:00 Europe/Berlin", "on 2027-03-28"}, {"UTC", "02:00", ""},
		{"America/New_York", "02:00", "on 2027-03-14"}, {"Europe/London", "01:30", "on 2027-03-28"},
		{"Australia/Lord_Howe", "02:15", "from 02:00 to 02:30"}, {"Asia/Tokyo", "02:00", ""}, {"Nowhere", "02:00", ""},
	} {
		p := Places{Zone: "/usr/share/zoneinfo/" + c.zone, Commands: command.Local{}}
		got := p.SkippedWarning(t.Context(), c.calendar, now)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s in %s: %q, want %q", c.calendar, c.zone, got, c.want)
		}
	}
}
