package run

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.pcc.com/rewind/core/backup"
)

// prune has the backend forget the backups beyond those to be kept, when the new one is known to be good: it may be the
// only one left. The new one is good whether that works or not, so what does not is a warning.
func (w *work) prune(ctx context.Context, client backup.Backend, list []backup.Stored, last backup.Stored) (warnings []string) {
	if w.Keep == 0 {
		return nil
	}
	for _, old := range beyond(list, last, w.Keep, time.Now()) {
		w.trip.Progress("removing backup "+old.ID, -1)
		w.trip.Extend(Limit(w.Use))
		if err := w.host.forget(ctx, client, old.ID); err != nil {
			warnings = append(warnings, fmt.Sprintf("backup %s is kept: %v", old.ID, err))
		}
	}
	return warnings
}

// beyond returns what is older than the newest `keep` complete backups of the same host, set and roots as last, which is
// one of them. Incomplete ones do not count: they must not push out what can be restored whole. Nor do those that are
// dated later than now, which no restore takes for the latest. Those of other sets, and what other programs stored, are
// nobody's to remove here.
func beyond(list []backup.Stored, last backup.Stored, keep int, now time.Time) []backup.Stored {
	like := func(s backup.Stored) bool {
		return s.Host == last.Host && s.Set == last.Set && slices.Equal(slices.Sorted(slices.Values(s.Roots)), slices.Sorted(slices.Values(last.Roots)))
	}
	list = slices.Clone(list)
	backup.NewestFirst(list)
	var old []backup.Stored
	complete := 1 // last, wherever the clock has put it
	for _, s := range list {
		switch {
		case !like(s) || s.ID == last.ID:
		case complete >= keep:
			old = append(old, s)
		case !s.Incomplete && !s.Future(now):
			complete++
		}
	}
	return old
}
