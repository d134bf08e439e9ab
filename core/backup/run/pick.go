package run

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

// shortest is how much of an ID is taken for it: what restic shows.
const shortest = 8

// Pick returns the backup of that ID, whosever it is, or of the host the only one whose ID begins so, or the complete
// one that was made last and has all the roots. One that is dated later than now is never that: nobody knows how old it
// is. Fault: not_found; bad_arguments if several IDs begin so.
func Pick(list []backup.Stored, id, host string, roots []string, now time.Time) (backup.Stored, error) {
	if id == Latest {
		return latest(list, host, roots, now)
	}
	var alike []backup.Stored
	for _, s := range list {
		if s.ID == id {
			return s, nil
		}
		if len(id) >= shortest && s.Host == host && strings.HasPrefix(s.ID, id) {
			alike = append(alike, s)
		}
	}
	switch len(alike) {
	case 0:
		return backup.Stored{}, fault.New(fault.NotFound, "there is no backup %s", id).
			WithHint("snap_backup_info lists what there is; of this host's the first %d letters are enough, "+
				"another host's is named by its whole id", shortest)
	case 1:
		return alike[0], nil
	}
	var ids []string
	for _, s := range alike {
		ids = append(ids, s.ID)
	}
	return backup.Stored{}, ansible.Bad("restore_id", "%s is the beginning of %d: %s",
		id, len(ids), strings.Join(ids, ", "))
}

func latest(list []backup.Stored, host string, roots []string, now time.Time) (backup.Stored, error) {
	list = slices.Clone(list)
	backup.NewestFirst(list)
	var future []string
	for _, s := range list {
		missing := func(root string) bool { return !slices.Contains(s.Roots, root) }
		switch {
		case s.Incomplete || s.Host != host || slices.ContainsFunc(roots, missing):
		case s.Future(now):
			future = append(future, s.ID)
		default:
			return s, nil
		}
	}
	what := host
	if len(roots) > 0 {
		what += " that has " + strings.Join(roots, ", ")
	}
	if len(future) > 0 {
		return backup.Stored{}, fault.New(fault.NotFound, "every complete backup of %s is dated later than now, %s: %s",
			what, now.UTC().Format(time.RFC3339), some(future)).
			WithHint("see whether this server's clock is right (timedatectl); restore_id=ID takes one of them all the same")
	}
	if others := otherHosts(list, host); len(others) > 0 {
		return backup.Stored{}, fault.New(fault.NotFound, "%s", noneOf(host, others)).
			WithHint("host=%s takes those of that one; snap_backup_info all_hosts=true lists all", others[0])
	}
	return backup.Stored{}, fault.New(fault.NotFound, "there is no complete backup of %s", what).
		WithHint("snap_backup_info lists what there is, by the mount points that the volumes had; " +
			"host=NAME names another host's")
}

func noneOf(host string, others []string) string {
	return fmt.Sprintf("there is no backup of %s; those that are there are of %s", host, some(others))
}

// otherHosts are the hosts whose backups the list has, that of the newest first; none if it has any of the host.
func otherHosts(newestFirst []backup.Stored, host string) []string {
	var others []string
	for _, s := range newestFirst {
		if s.Host == host {
			return nil
		}
		if !slices.Contains(others, s.Host) {
			others = append(others, s.Host)
		}
	}
	return others
}

// Ahead warns of the host's backups that are dated later than now; host "": of those of every host.
func Ahead(list []backup.Stored, host string, now time.Time) []string {
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
		"and they do not count as fresh", now.UTC().Format(time.RFC3339), some(future))}
}

// some names the first few, and counts the others.
func some(all []string) string {
	const few = 3
	if len(all) <= few {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s, and %d more", strings.Join(all[:few], ", "), len(all)-few)
}

// Entry is a backup as a result shows it.
type Entry struct {
	ID       string   `json:"id"`
	Host     string   `json:"host"`
	Set      string   `json:"name,omitempty"`
	Time     string   `json:"time"` // RFC 3339
	Volumes  []string `json:"volumes"`
	Complete bool     `json:"complete"`
	Files    int64    `json:"files,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`
	Future   bool     `json:"dated_in_future,omitempty"` // its time is later than now, and tells nothing
}

func entry(s backup.Stored, now time.Time) Entry {
	return Entry{
		s.ID, s.Host, s.Set, s.Time.UTC().Format(time.RFC3339), s.Roots, !s.Incomplete, s.Files, s.Bytes, s.Future(now),
	}
}

// entries are all of them, the one made last first.
func entries(list []backup.Stored, now time.Time) []Entry {
	list = slices.Clone(list)
	backup.NewestFirst(list)
	out := []Entry{}
	for _, s := range list {
		out = append(out, entry(s, now))
	}
	return out
}
