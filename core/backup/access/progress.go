package access

import (
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/journey"
)

// progressInterval is the minimum time between two writings of the progress, extendInterval that between two requests
// to systemd for more time.
const (
	progressInterval = time.Second
	extendInterval   = 10 * time.Second
)

// Report returns a function that passes on a backend's progress under the given label, at most once per second. As long
// as the backend reports, the function also extends the time limit of the run's unit, every ten seconds, to twice the
// stall timeout from then.
func Report(t *journey.Run, h *Host, label string) backup.Report {
	var lastTold, lastExtended time.Time
	t.Tell(journey.Progress{Label: label, Percent: -1})
	return func(p backup.Progress) {
		if time.Since(lastExtended) > extendInterval {
			lastExtended = time.Now()
			t.Extend(2 * h.use.Stall)
		}
		if time.Since(lastTold) < progressInterval {
			return
		}
		lastTold = time.Now()
		percent := -1.0
		if p.Total > 0 {
			percent = min(100, 100*float64(p.Done)/float64(p.Total))
		}
		t.Tell(journey.Progress{Label: label, Percent: percent, Bytes: p.Done})
	}
}
