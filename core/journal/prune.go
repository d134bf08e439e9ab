package journal

import (
	"errors"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// keptEntries is how many finished entries prune keeps.
const keptEntries = 50

// prune removes all finished entries except the newest ones. It always keeps the newest done entry of each kind and
// set: that entry is the only record of a set that was merged, and shows that a second call for the same rollback has
// nothing left to do. It never removes damaged or unfinished entries.
func (j *Journal) prune() error {
	list, err := j.Entries()
	if err != nil && !errors.Is(err, fault.JournalDamaged) {
		return err
	}
	type kindAndSet struct{ kind, set string }
	hasNewerDone := make(map[kindAndSet]bool)
	finished := 0
	for _, e := range list {
		if e.Outcome == Unfinished {
			continue
		}
		finished++
		key := kindAndSet{e.Kind, e.Set}
		isNewestDone := e.Outcome == Done && !hasNewerDone[key]
		if isNewestDone {
			hasNewerDone[key] = true
		}
		if finished <= keptEntries || isNewestDone {
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
