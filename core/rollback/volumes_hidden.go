package rollback

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

const (
	hiddenLimit = 4096            // how many names of one directory are looked at
	hiddenWait  = 2 * time.Second // how long all of them may take: the directories may lie on a file server
	mostNamed   = 5               // how many names a warning has
)

// warnOfHidden warns of what was written into the directories of these mount points since the services stopped, while
// nothing was mounted there, by a timer, a job of cron or an upload. The mounts that are to be made now hide it. It is
// no failure if that cannot be found out.
func (v *volumes) warnOfHidden(points []string) {
	mounts, err := v.server.Host.Mounts()
	if err != nil || v.state.Stopped.IsZero() {
		return
	}
	found := make(chan []string, 1)
	go func() { found <- hiddenWarnings(points, mounts, v.state.Stopped, time.Now()) }()
	select {
	case warnings := <-found:
		v.warnings = append(v.warnings, warnings...)
	case <-time.After(hiddenWait):
	}
}

// hiddenWarnings returns a warning for each of the mount points at which nothing is mounted and something was written
// between two times. A look at an automount point would mount something, and is left out.
func hiddenWarnings(points []string, mounts []filesystem.Mount, since, until time.Time) []string {
	var warnings []string
	for _, point := range points {
		inTheWay := func(m filesystem.Mount) bool {
			return m.Point == point || m.Type == filesystem.Autofs && isBelow(point, m.Point)
		}
		if slices.ContainsFunc(mounts, inTheWay) {
			continue
		}
		names := writtenBetween(point, since, until)
		parent, err := filesystem.Holding(mounts, point)
		if len(names) == 0 || err != nil {
			continue
		}
		if more := len(names) - mostNamed; more > 0 {
			names = append(names[:mostNamed], fmt.Sprintf("and %d more", more))
		}
		warnings = append(warnings, fmt.Sprintf("something wrote to %s while nothing was mounted there, "+
			"and the mount hides that now: %s; `mount --bind %s /mnt` shows it in %s", point, strings.Join(names, ", "),
			parent.Point, filepath.Join("/mnt", strings.TrimPrefix(point, parent.Point))))
	}
	return warnings
}

// writtenBetween returns the names in a directory that were made or changed between two times, sorted.
func writtenBetween(dir string, since, until time.Time) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Readdirnames(hiddenLimit)
	names := slices.DeleteFunc(all, func(name string) bool { return !changedBetween(dir+"/"+name, since, until) })
	slices.Sort(names)
	return names
}

// changedBetween is true if a file was made or changed between two times.
func changedBetween(path string, since, until time.Time) bool {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	changed := time.Unix(st.Ctim.Unix())
	return err == nil && !changed.Before(since) && !changed.After(until)
}
