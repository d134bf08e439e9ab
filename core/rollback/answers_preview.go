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

// previewLimit is how many files a preview names for each volume.
const previewLimit = 1000

// preview says what a rollback would do; with --diff it also names the files that would change.
func (a *answers) preview(ctx context.Context, f *findings) (Result, error) {
	result := a.result(true, &journal.Entry{Step: stepChecked})
	result.Msg = "would roll back " + a.state.describe()
	result.Preview = &Preview{Stop: a.state.Services.Stop, Holders: f.holders}
	for _, p := range f.toEnd {
		result.Preview.End = append(result.Preview.End, p.Holder)
	}
	if len(f.holders) > 0 {
		result.Msg += " at its next activation, because it is held open"
	}
	if n := a.bytesMergedBeforeStart(); n > 0 {
		result.Msg += fmt.Sprintf("; to take the set again, the services wait until up to %s are merged", ansible.Bytes(n))
	}
	if !a.Diff {
		return result, nil
	}
	changes, err := a.fileChanges(ctx, f)
	if err != nil {
		return result, err
	}
	result.Preview.Discarded, result.Preview.Diff = changes, fileDiff(a.state, changes)
	return result, nil
}

// bytesMergedBeforeStart returns how much must be merged at most before the services start. With Resnapshot the
// services wait for the merge of thick members, because LVM takes no thick snapshot of a volume that is merging.
func (a *answers) bytesMergedBeforeStart() (bytes int64) {
	for _, m := range a.state.Members {
		if a.Resnapshot && !m.Thin {
			bytes += m.Used
		}
	}
	return bytes
}

// previewBase is the directory over which a file system in memory is mounted while volumes are compared, so that not
// even a directory is made on the server. It exists wherever systemd runs, and no volume is mounted in it.
const previewBase = "/run/systemd"

// fileChanges compares every mounted member with its snapshot. The snapshot is mounted in a private mount namespace.
// The changes are by mount point.
func (a *answers) fileChanges(ctx context.Context, f *findings) (map[string]filesystem.Changes, error) {
	changes := map[string]filesystem.Changes{}
	err := filesystem.InPrivateNamespace(func() error {
		if err := unix.Mount("tmpfs", previewBase, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
			return fault.New(fault.MountFailed, "preview: memory file system on %s: %w", previewBase, err)
		}
		for i := range f.targets {
			t, v := &f.targets[i], f.selection.snapshots[i]
			if len(t.Mounts) == 0 || t.Crypt != "" || len(t.Needs) > 0 {
				a.warnings = append(a.warnings, t.LV.FullName()+" is not compared file by file: it is not mounted, encrypted, "+
					"or has its log elsewhere")
				continue
			}
			m := t.Mounts[0]
			point := filepath.Join(previewBase, strconv.Itoa(i))
			if err := os.Mkdir(point, 0o700); err != nil {
				return fault.New(fault.MountFailed, "preview: %w", err)
			}
			options := filesystem.WithoutExecution(filesystem.SnapshotOptions(m.Type, m, true))
			spec := filesystem.MountSpec{Source: v.Path, Point: point, Type: m.Type, Options: options}
			if err := filesystem.MountDevice(ctx, a.commands, spec); err != nil {
				return fault.New(fault.Of(err).Code, "preview: %w", err)
			}
			c, err := filesystem.Compare(ctx, m.Point, point, previewLimit)
			if err != nil {
				return err
			}
			changes[m.Point] = c
		}
		return nil
	})
	return changes, err
}

// fileDiff lists the files that differ: in Before those that are on the volumes now, in After those that the rollback
// brings back. Files below a directory that is new or deleted as a whole are only counted.
func fileDiff(st *State, changes map[string]filesystem.Changes) *ansible.Diff {
	var before, after strings.Builder
	for _, point := range slices.Sorted(maps.Keys(changes)) {
		c := changes[point]
		for i := 0; i < len(c.Paths); {
			p, n := c.Paths[i], countBelow(c.Paths[i:])
			i += 1 + n
			line := filepath.Join(point, p.Path)
			if strings.Contains(line, "\n") { // a newline would make it look like another file
				line = strconv.Quote(line)
			}
			if n > 0 {
				line += fmt.Sprintf("/ (with %d below it)", n)
			}
			switch p.What {
			case "new":
				fmt.Fprintf(&before, "%s\n", line)
			case "deleted":
				fmt.Fprintf(&after, "%s\n", line)
			default:
				fmt.Fprintf(&before, "%s (changed since)\n", line)
				fmt.Fprintf(&after, "%s\n", line)
			}
		}
		if more := c.Changed + c.New + c.Deleted - len(c.Paths); more > 0 {
			fmt.Fprintf(&before, "%s: %d more\n", point, more)
		}
	}
	return &ansible.Diff{Before: before.String(), After: after.String(), BeforeHeader: "now", AfterHeader: "set " + st.Set}
}

// countBelow counts the paths after the first that lie below it and were made or deleted with it.
func countBelow(paths []filesystem.Change) int {
	first, following := paths[0], paths[1:]
	n := slices.IndexFunc(following, func(p filesystem.Change) bool {
		return p.What != first.What || !strings.HasPrefix(p.Path, first.Path+"/")
	})
	switch {
	case first.What == "changed":
		return 0
	case n < 0:
		return len(following)
	}
	return n
}
