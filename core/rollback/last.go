package rollback

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Last is what the journal says of a rollback.
type Last struct {
	Set      string   `json:"name"`    // the set, or the snapshots' names
	Volumes  []string `json:"volumes"` // vg/lv
	Begun    string   `json:"time"`    // RFC 3339
	Updated  string   `json:"updated"` // when the step was reached
	Step     string   `json:"step"`
	Outcome  string   `json:"outcome"` // done, undone, or unfinished: under way, deferred, or to be settled
	Downtime int64    `json:"downtime_ms,omitempty"`

	// Failures are the units that did not start then; whether they run by now is systemd's to say.
	Failures []service.Failure `json:"failed_services,omitempty"`

	// Merging is how many bytes of COW space each member's merge began with, by the snapshot's UUID, while the merges
	// are not all done.
	Merging map[string]int64 `json:"-"`
}

// Newest returns the newest rollback in the journal in dir, or of that set if one is named; nil if there is none.
// Beside a result the error names entries that cannot be read.
func Newest(dir, set string) (*Last, error) {
	list, damaged := entries(dir)
	for _, e := range list {
		if e.Kind != Kind || set != "" && e.Set != set {
			continue
		}
		last, err := lastOf(e)
		return last, fault.All(err, damaged)
	}
	return nil, damaged
}

// entries are the journal's, the newest first. It does not make a journal that is not there: to look is no change.
func entries(dir string) ([]*journal.Entry, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	j, err := journal.Open(dir)
	if err != nil {
		return nil, err
	}
	return j.Entries()
}

func lastOf(e *journal.Entry) (*Last, error) {
	l := &Last{
		Set: e.Set, Begun: e.Begun.Format(time.RFC3339), Updated: e.Updated.Format(time.RFC3339),
		Step: e.Step, Outcome: string(e.Outcome), Merging: map[string]int64{},
	}
	if e.Outcome == journal.Unfinished {
		l.Outcome = "unfinished"
	}
	var st State
	if err := json.Unmarshal(e.State, &st); err != nil {
		return l, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	l.Downtime, l.Failures = st.Downtime.Milliseconds(), st.Failures
	for _, m := range st.Members {
		l.Volumes = append(l.Volumes, m.origin())
		if e.Outcome == journal.Unfinished {
			l.Merging[m.SnapshotID] = m.Used
		}
	}
	return l, nil
}
