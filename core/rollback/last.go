package rollback

import (
	"encoding/json"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
)

// Last is the summary of a rollback that the journal has.
type Last struct {
	Set      string   `json:"name"`    // the set, or the names of the snapshots, comma-separated
	Volumes  []string `json:"volumes"` // vg/lv
	Begun    string   `json:"time"`    // RFC 3339
	Updated  string   `json:"updated"` // when the step was reached
	Step     string   `json:"step"`
	Outcome  string   `json:"outcome"` // done, undone, or unfinished: under way, deferred, or to be settled
	Downtime int64    `json:"downtime_ms,omitempty"`

	// Failures are the units that did not start after the rollback. They may run by now: only systemd knows.
	Failures []service.Failure `json:"failed_services,omitempty"`

	// Merging is empty if all merges are finished. Otherwise it has, for the snapshot UUID of each member, the bytes of
	// COW space in use when the merge began.
	Merging map[string]int64 `json:"-"`
}

// Newest returns the newest rollback in the journal in dir, or, if set is not empty, the newest of that name. It
// returns nil if there is none. If some entries cannot be read, it returns the fault journal_damaged in addition to the
// result.
func Newest(dir, set string) (*Last, error) {
	list, damaged := journal.Read(dir)
	for _, e := range list {
		if e.Kind != Kind || set != "" && e.Set != set {
			continue
		}
		last, err := lastOf(e)
		return last, fault.All(err, damaged)
	}
	return nil, damaged
}

// lastOf returns the summary of an entry. If the state of the entry cannot be read, it returns an incomplete summary
// and the fault journal_damaged.
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
