package run

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
)

// prune has the backend forget the backups that are not to be kept. It is called when the new backup is known to be
// good, because that may be the only one left. The new backup is good even if another cannot be forgotten, so that is
// only a warning.
func (op *operation) prune(
	ctx context.Context, client backup.Backend, list []backup.Stored, last backup.Stored,
) (warnings []string) {
	if op.Keep == 0 {
		return nil
	}
	for _, old := range backupsToForget(list, last, op.Keep, time.Now()) {
		op.journeyRun.Progress("removing backup "+old.ID, -1)
		op.journeyRun.Extend(access.QuietLimit(op.Use))
		if err := op.host.Forget(ctx, client, old.ID); err != nil {
			warnings = append(warnings, fmt.Sprintf("backup %s is kept: %v", old.ID, err))
		}
	}
	return warnings
}

// isOfOtherMachine reports whether another machine of the same name is known to have made the backup s, such as one of
// which this is a copy.
func isOfOtherMachine(s, last backup.Stored) bool {
	return s.Host == last.Host && s.Machine != "" && last.Machine != "" && s.Machine != last.Machine
}

// namesakeWarning warns of backups in the list that another machine made under the name of this one, which made last.
func namesakeWarning(list []backup.Stored, last backup.Stored) []string {
	var others []string
	for _, s := range list {
		if isOfOtherMachine(s, last) {
			others = append(others, s.ID+" of "+s.Time.UTC().Format(time.RFC3339))
		}
	}
	if len(others) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("another server called %s made backups there, such as %s; there are %d. keep leaves them "+
		"alone, and restore_id=latest takes whichever is the last: give one of the two servers host=NAME. Was it this "+
		"server before a reinstallation or a move to new hardware? Then remove them by hand when they are not needed",
		last.Host, others[0], len(others))}
}

// backupsToForget returns the backups of the same host, set and roots as last that are older than the newest `keep`
// complete ones of these, of which last is one. Incomplete backups do not count towards `keep`, so that they do not
// displace complete ones. Nor do backups that are dated in the future, because no restore takes them as the latest.
// Backups of other sets, and those that other programs or other machines of the same name stored, are never returned.
func backupsToForget(list []backup.Stored, last backup.Stored, keep int, now time.Time) []backup.Stored {
	sameJob := func(s backup.Stored) bool {
		return s.Host == last.Host && s.Set == last.Set && !isOfOtherMachine(s, last) &&
			slices.Equal(slices.Sorted(slices.Values(s.Roots)), slices.Sorted(slices.Values(last.Roots)))
	}
	list = slices.Clone(list)
	backup.NewestFirst(list)
	var old []backup.Stored
	kept := 1 // last is kept, even if the clock was wrong and the list has newer backups
	for _, s := range list {
		switch {
		case !sameJob(s) || s.ID == last.ID:
		case kept >= keep:
			old = append(old, s)
		case !s.Incomplete && !s.Future(now):
			kept++
		}
	}
	return old
}
