package rollback

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
)

// previewPaths is how many files a preview names for each volume.
const previewPaths = 1000

// preview says what a rollback would do; with --diff also which files it would throw away.
func (w *walk) preview(ctx context.Context, f *found) (ansible.Result, error) {
	result := w.result(true, &journal.Entry{Step: stepChecked})
	result.Msg = "would roll back " + w.fromTo()
	result.Data["stop"] = w.state.Services.Stop
	if len(f.holders) > 0 {
		result.Msg += " at its next activation, because it is held open"
		result.Data["holders"] = f.holders
	}
	if n := w.mergedFirst(); n > 0 {
		result.Msg += fmt.Sprintf("; to take the set again, the services wait until up to %s are merged", ansible.Bytes(n))
	}
	if len(f.kill) > 0 {
		result.Data["end"] = f.kill
	}
	if !w.Diff {
		return result, nil
	}
	changes, err := w.changes(ctx, f)
	if err != nil {
		return result, err
	}
	result.Data["discarded"] = changes
	result.Diff = diff(w.state, changes)
	return result, nil
}

// mergedFirst is how much is merged, at most, before a set that is to be taken again lets the services start: LVM takes no
// thick snapshot of a volume that is merging.
func (w *walk) mergedFirst() (bytes int64) {
	for _, m := range w.state.Members {
		if w.Resnapshot && !m.Thin {
			bytes += m.Used
		}
	}
	return bytes
}

// previewBase is covered by a file system in memory while volumes are compared, so that not even a directory is made on
// the server. It is there wherever systemd is, and no volume is mounted in it.
const previewBase = "/run/systemd"

// changes compares every mounted member with its snapshot, which is mounted where nobody else sees it.
func (w *walk) changes(ctx context.Context, f *found) (map[string]filesystem.Changes, error) {
	changes := map[string]filesystem.Changes{}
	err := filesystem.Private(func() error {
		if err := unix.Mount("tmpfs", previewBase, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
			return fault.New(fault.MountFailed, "preview: memory file system on %s: %w", previewBase, err)
		}
		for i := range f.targets {
			t, v := &f.targets[i], f.sight.snapshots[i]
			if len(t.Mounts) == 0 || t.Crypt != "" || len(t.Needs) > 0 {
				w.warnings = append(w.warnings, t.LV.FullName()+" is not compared file by file: it is not mounted, encrypted, "+
					"or has its log elsewhere")
				continue
			}
			m := t.Mounts[0]
			point := filepath.Join(previewBase, strconv.Itoa(i))
			if err := os.Mkdir(point, 0o700); err != nil {
				return fault.New(fault.MountFailed, "preview: %w", err)
			}
			spec := filesystem.MountSpec{Source: v.Path, Point: point, Type: m.Type, Options: filesystem.Inert(filesystem.SnapshotOptions(m.Type, m, true))}
			if err := filesystem.MountDevice(ctx, w.commands, spec); err != nil {
				return fault.New(fault.Of(err).Code, "preview: %w", err)
			}
			c, err := filesystem.Changed(ctx, m.Point, point, previewPaths)
			if err != nil {
				return err
			}
			changes[m.Point] = c
		}
		return nil
	})
	return changes, err
}

// diff shows the files: what is there now against what the rollback brings back. What lies below a directory that is new
// or deleted as a whole is counted.
func diff(st *State, changes map[string]filesystem.Changes) *ansible.Diff {
	var now, then strings.Builder
	for _, point := range slices.Sorted(maps.Keys(changes)) {
		c := changes[point]
		for i := 0; i < len(c.Paths); {
			p, n := c.Paths[i], wentWith(c.Paths[i:])
			i += 1 + n
			line := filepath.Join(point, p.Path)
			if strings.Contains(line, "\n") { // which would pass for another file
				line = strconv.Quote(line)
			}
			if n > 0 {
				line += fmt.Sprintf("/ (with %d below it)", n)
			}
			switch p.What {
			case "new":
				fmt.Fprintf(&now, "%s\n", line)
			case "deleted":
				fmt.Fprintf(&then, "%s\n", line)
			default:
				fmt.Fprintf(&now, "%s (changed since)\n", line)
				fmt.Fprintf(&then, "%s\n", line)
			}
		}
		if more := c.Changed + c.New + c.Deleted - len(c.Paths); more > 0 {
			fmt.Fprintf(&now, "%s: %d more\n", point, more)
		}
	}
	return &ansible.Diff{Before: now.String(), After: then.String(), BeforeHeader: "now", AfterHeader: "set " + st.Set}
}

// wentWith counts what follows the first of paths, lies below it, and was made or deleted with it.
func wentWith(paths []filesystem.Change) int {
	first, rest := paths[0], paths[1:]
	n := slices.IndexFunc(rest, func(p filesystem.Change) bool {
		return p.What != first.What || !strings.HasPrefix(p.Path, first.Path+"/")
	})
	switch {
	case first.What == "changed":
		return 0
	case n < 0:
		return len(rest)
	}
	return n
}
