package rollback

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
)

// previewPaths is how many files a preview names for each volume.
const previewPaths = 1000

// look at one volume: what is mounted now, and the snapshot to compare it with.
type lookAt struct {
	Now     string   `json:"now"`
	Source  string   `json:"source"`
	Type    string   `json:"type"`
	Options []string `json:"options"`
}

// preview says what a rollback would do; with --diff also which files it would throw away.
func (w *walk) preview(ctx context.Context, f *found) (ansible.Result, error) {
	result := w.result(true, &journal.Entry{Step: stepChecked})
	result.Msg = fmt.Sprintf("would roll back %s to set %s of %s", join(origins(w.state.Members)), w.state.Set,
		w.state.Taken.Format("2006-01-02 15:04:05"))
	result.Data["stop"] = w.state.Services.Stop
	if len(f.holders) > 0 {
		result.Msg += " at its next activation, because it is held open"
		result.Data["holders"] = f.holders
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

// changes compares every mounted member with its snapshot, in a process with its own mounts.
func (w *walk) changes(ctx context.Context, f *found) (map[string]filesystem.Changes, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Internal, "own program: %w", err)
	}
	var looks []lookAt
	for i := range f.targets {
		t, v := &f.targets[i], f.sight.snapshots[i]
		if len(t.Mounts) == 0 || t.Crypt != "" {
			w.warnings = append(w.warnings, t.LV.FullName()+" is not compared file by file: it is not mounted, or encrypted")
			continue
		}
		m := t.Mounts[0]
		looks = append(looks, lookAt{m.Point, v.Path, m.Type, filesystem.SnapshotOptions(m.Type, m, true)})
	}
	if len(looks) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(looks)
	if err != nil {
		return nil, fault.New(fault.Internal, "preview: %w", err)
	}
	out, err := filesystem.RunPrivate(ctx, w.commands, self, []string{"preview"}, data)
	if err != nil {
		return nil, fault.New(fault.Of(err).Code, "preview: %w", err)
	}
	changes := map[string]filesystem.Changes{}
	if err := json.Unmarshal(out, &changes); err != nil {
		return nil, fault.New(fault.Internal, "preview: %w", err)
	}
	return changes, nil
}

// previewChild runs in a mount namespace of its own. It mounts the snapshots on a file system in memory, so that not
// even a directory is made on the server.
func previewChild(ctx context.Context, _ []string) error {
	var looks []lookAt
	if err := json.NewDecoder(os.Stdin).Decode(&looks); err != nil {
		return fault.New(fault.Internal, "preview: %w", err)
	}
	if err := filesystem.EnterPrivate(); err != nil {
		return err
	}
	const base = "/mnt"
	if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
		return fault.New(fault.MountFailed, "preview: memory file system on %s: %w", base, err)
	}
	changes := map[string]filesystem.Changes{}
	for i, l := range looks {
		point := filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(point, 0o700); err != nil {
			return fault.New(fault.MountFailed, "preview: %w", err)
		}
		spec := filesystem.MountSpec{Source: l.Source, Point: point, Type: l.Type, Options: l.Options}
		if err := filesystem.MountDevice(ctx, command.Local{}, spec); err != nil {
			return err
		}
		c, err := filesystem.Changed(ctx, l.Now, point, previewPaths)
		if err != nil {
			return err
		}
		changes[l.Now] = c
	}
	return json.NewEncoder(os.Stdout).Encode(changes)
}

// diff shows the files: what is there now against what the rollback brings back.
func diff(st *State, changes map[string]filesystem.Changes) *ansible.Diff {
	var now, then strings.Builder
	for point, c := range changes {
		for _, p := range c.Paths {
			path := filepath.Join(point, p.Path)
			switch p.What {
			case "new":
				fmt.Fprintf(&now, "%s\n", path)
			case "deleted":
				fmt.Fprintf(&then, "%s\n", path)
			default:
				fmt.Fprintf(&now, "%s (changed since)\n", path)
				fmt.Fprintf(&then, "%s\n", path)
			}
		}
		if more := c.Changed + c.New + c.Deleted - len(c.Paths); more > 0 {
			fmt.Fprintf(&now, "%s: %d more\n", point, more)
		}
	}
	return &ansible.Diff{Before: now.String(), After: then.String(), BeforeHeader: "now", AfterHeader: "set " + st.Set}
}
