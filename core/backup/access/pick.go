package access

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// Latest names the newest complete backup.
const Latest = "latest"

// minPrefix is the minimum number of characters by which an ID may be abbreviated. restic shows IDs of that length.
const minPrefix = 8

// Pick returns the backup with this ID, of whatever host, or else the only backup of the host whose ID begins with id.
// If id is Latest, it returns the host's newest complete backup that has all the roots. A backup that is dated later
// than now is never the latest, because nobody knows how old it is. Faults: not_found; bad_arguments if several IDs
// begin with id.
func Pick(list []backup.Stored, id, host string, roots []string, now time.Time) (backup.Stored, error) {
	if id == Latest {
		return latest(list, host, roots, now)
	}
	var matches []backup.Stored
	for _, s := range list {
		if s.ID == id {
			return s, nil
		}
		if len(id) >= minPrefix && s.Host == host && strings.HasPrefix(s.ID, id) {
			matches = append(matches, s)
		}
	}
	switch len(matches) {
	case 0:
		return backup.Stored{}, fault.New(fault.NotFound, "there is no backup %s", id).
			WithHint("snap_backup_info lists what there is; of this host's the first %d letters are enough, "+
				"another host's is named by its whole id", minPrefix)
	case 1:
		return matches[0], nil
	}
	var ids []string
	for _, s := range matches {
		ids = append(ids, s.ID)
	}
	return backup.Stored{}, ansible.Bad("restore_id", "%s is the beginning of %d: %s",
		id, len(ids), strings.Join(ids, ", "))
}

// latest returns the host's newest complete backup that has all the roots and is not dated later than now. A backup
// that another program made is taken only if there is no other: nobody knows what that program left out.
func latest(list []backup.Stored, host string, roots []string, now time.Time) (backup.Stored, error) {
	list = slices.Clone(list)
	backup.NewestFirst(list)
	var future []string
	var foreign *backup.Stored
	for i, s := range list {
		switch {
		case s.Incomplete || s.Host != host || !hasRoots(s, roots):
		case s.Future(now):
			future = append(future, s.ID)
		case !isForeign(s):
			return s, nil
		case foreign == nil:
			foreign = &list[i]
		}
	}
	if foreign != nil {
		return *foreign, nil
	}
	wanted := host
	if len(roots) > 0 {
		wanted += " that has " + strings.Join(roots, ", ")
	}
	if len(future) > 0 {
		return backup.Stored{}, fault.New(fault.NotFound, "every complete backup of %s is dated later than now, %s: %s",
			wanted, now.UTC().Format(time.RFC3339), firstFew(future)).
			WithHint("see whether this server's clock is right (timedatectl); restore_id=ID takes one of them all the same")
	}
	if others := OtherHosts(list, host); len(others) > 0 {
		return backup.Stored{}, fault.New(fault.NotFound, "%s", NoBackupsText(host, others)).
			WithHint("host=%s takes those of that one; snap_backup_info all_hosts=true lists all", others[0])
	}
	missing := fault.New(fault.NotFound, "there is no complete backup of %s", wanted)
	newest := slices.IndexFunc(list, func(s backup.Stored) bool { return !s.Incomplete && s.Host == host })
	if newest < 0 {
		return backup.Stored{}, missing.WithHint("snap_backup_info lists what there is, by the mount points that the " +
			"volumes had; host=NAME names another host's")
	}
	return backup.Stored{}, missing.WithHint("the newest one, %s, has %s: those are the mount points that the volumes "+
		"had, and they are restored where they are mounted so; snap_backup_info lists the others", list[newest].ID,
		strings.Join(list[newest].Roots, ", "))
}

// hasRoots reports whether a backup has all of the roots.
func hasRoots(s backup.Stored, roots []string) bool {
	isMissing := func(root string) bool { return !slices.Contains(s.Roots, root) }
	return !slices.ContainsFunc(roots, isMissing)
}

// isForeign reports whether another program made the backup, such as restic by hand or by cron.
func isForeign(s backup.Stored) bool { return s.Set == "" }

// ForeignWarning warns if another program made the backup that is restored, or a newer one of its host that has the
// same volumes and was not taken for the latest.
func ForeignWarning(list []backup.Stored, restored backup.Stored) []string {
	if isForeign(restored) {
		return []string{fmt.Sprintf("backup %s was not made by snap_backup: what was left out of it (such as by --exclude) "+
			"is deleted in the set, and by a rollback to it", restored.ID)}
	}
	var newer []string
	for _, s := range list {
		if isForeign(s) && !s.Incomplete && s.Host == restored.Host && s.Time.After(restored.Time) &&
			hasRoots(s, restored.Roots) {
			newer = append(newer, s.ID)
		}
	}
	if len(newer) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("newer than backup %s, and not made by snap_backup: %s; restore_id=ID takes one of them",
		restored.ID, firstFew(newer))}
}

// NoBackupsText says that the host has no backups, and which other hosts have.
func NoBackupsText(host string, others []string) string {
	return fmt.Sprintf("there is no backup of %s; those that are there are of %s", host, firstFew(others))
}

// OtherHosts returns the hosts that have backups in the list, the one with the newest backup first. It returns none if
// the given host has a backup in the list.
func OtherHosts(newestFirst []backup.Stored, host string) []string {
	var hosts []string
	for _, s := range newestFirst {
		if s.Host == host {
			return nil
		}
		if !slices.Contains(hosts, s.Host) {
			hosts = append(hosts, s.Host)
		}
	}
	return hosts
}

// FutureWarning returns a warning that names the host's backups that are dated later than now, or nil if there are
// none. If host is empty, it names those of all hosts.
func FutureWarning(list []backup.Stored, host string, now time.Time) []string {
	var future []string
	for _, s := range list {
		if s.Future(now) && (host == "" || s.Host == host) {
			future = append(future, s.ID+" of "+s.Time.UTC().Format(time.RFC3339))
		}
	}
	if len(future) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("dated later than now, %s: %s. "+
		"The clock ran ahead when they were made, or is behind now; restore_id=latest does not take them, "+
		"and they do not count as fresh", now.UTC().Format(time.RFC3339), firstFew(future))}
}

// DamagedWarnings returns a warning for each of the host's backups that are damaged (Stored.Damaged). If host is empty,
// it returns those of all hosts.
func DamagedWarnings(list []backup.Stored, host string) (warnings []string) {
	for _, s := range list {
		if s.Damaged != "" && (host == "" || s.Host == host) {
			const msg = "backup %s of %s is not taken for a complete one: %s"
			warnings = append(warnings, fmt.Sprintf(msg, s.ID, s.Host, s.Damaged))
		}
	}
	return warnings
}

// firstFew names the first three and says how many others there are.
func firstFew(all []string) string {
	const limit = 3
	if len(all) <= limit {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s, and %d more", strings.Join(all[:limit], ", "), len(all)-limit)
}
