package journal

import (
	"errors"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// keep is how many finished entries stay.
const keep = 50

// prune removes finished entries beyond the newest. The newest done entry of
// each kind and set always stays: it alone remembers a set that was merged away,
// so that rolling it back once more is recognised. Damaged and unfinished
// entries are never removed.
func (j *Journal) prune() error {
	list, err := j.Entries()
	if err != nil && !errors.Is(err, fault.JournalDamaged) {
		return err
	}
	type subject struct{ kind, set string }
	remembered := make(map[subject]bool)
	finished := 0
	for _, e := range list {
		if e.Outcome == Unfinished {
			continue
		}
		finished++
		about := subject{e.Kind, e.Set}
		newestDone := e.Outcome == Done && !remembered[about]
		if newestDone {
			remembered[about] = true
		}
		if finished <= keep || newestDone {
			continue
		}
		path, err := j.path(e.ID)
		if err != nil {
			return err
		}
		if err := durable.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
