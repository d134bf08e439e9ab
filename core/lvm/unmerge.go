package lvm

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// unmergeLimit bounds the wait for other LVM commands: services are down meanwhile.
const unmergeLimit = 30 * time.Second

// KeepMetadata writes the metadata of each volume group into a file of dir, for
// Unmerge. One command.
func (l *LVM) KeepMetadata(ctx context.Context, dir string, groups ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return l.backup(ctx, filepath.Join(dir, "%s"), groups...)
}

// backup writes metadata into files as vgcfgbackup(8) does: %s in path is the group.
func (l *LVM) backup(ctx context.Context, path string, groups ...string) error {
	// With --readonly it does not wait for the locks that this process holds.
	argv := []string{"lvm", "vgcfgbackup", "--readonly", "--config", config, "--file", path, "--"}
	_, err := l.look(ctx, append(argv, groups...)...)
	return explain(err)
}

// Unmerge takes back merges that LVM has recorded in a volume group since
// KeepMetadata(dir) and put off, because the origin or the snapshot was open:
// those of the snapshots named, of whose origins it is handed the names, too.
// Snapshots are shown again as they were; thin ones have no device until they are
// activated.
//
// LVM has no command for it: the kept metadata is restored (vgcfgrestore(8)), under
// the lock of the group, and only if nothing but these merges has changed since.
//
// Faults: busy (another LVM command has changed the group, or the kernel merges a
// volume of it), locked, unsupported (LVM locks elsewhere), command_failed.
func (l *LVM) Unmerge(ctx context.Context, dir, group string, names ...string) error {
	kept := filepath.Join(dir, group)
	before, err := os.ReadFile(kept)
	if err != nil {
		return err
	}
	if err := l.LocksHere(ctx); err != nil {
		return err
	}
	release, err := l.lock(ctx, []string{group}, unmergeLimit)
	if err != nil {
		return err
	}
	defer release()
	if err := l.noneMerges(ctx, group); err != nil {
		return err
	}
	current := kept + "@now" // no volume group has such a name
	defer os.Remove(current)
	if err := l.backup(ctx, current, group); err != nil {
		return err
	}
	now, err := os.ReadFile(current)
	if err != nil {
		return err
	}
	if !slices.Equal(withoutMerges(before, names), withoutMerges(now, names)) {
		return fault.New(fault.Busy, "another LVM command has changed volume group %s since the rollback began", group)
	}
	// --force: LVM restores no group with thin pools without it, because it cannot know whether the pools' own metadata
	// is of the same time. It is: the two differ in merges only. --yes: some of its volumes are active.
	return l.change(ctx, "lvm", "vgcfgrestore", "--nolocking", "--yes", "--force", "--file", kept, "--", group)
}

// noneMerges fails (busy) if the kernel merges a volume of the group.
func (l *LVM) noneMerges(ctx context.Context, group string) error {
	status, err := l.Status(ctx)
	if err != nil {
		return err
	}
	for name, targets := range status {
		for _, t := range targets {
			if s, ok := t.Snapshot(); ok && s.Merging && strings.HasPrefix(name, DMName(group, "")) {
				return fault.New(fault.Busy, "the kernel merges %s", name)
			}
		}
	}
	return nil
}

// withoutMerges returns what metadata says of each volume, in no order of LVM's, as it would be if the merges of the
// named ones did not wait. Such a merge shows only in these (lvm2, lib/format_text/export.c and
// metadata/snapshot_manip.c): a thick snapshot has a merging_store instead of a cow_store, a thin one the volume that
// it merges into, and either is hidden, and written after what is visible. What is left out beside tells when the text
// was written, and after how many changes.
func withoutMerges(metadata []byte, names []string) []string {
	var volumes []string
	volume, depth := "", 0
	for line := range strings.Lines(string(metadata)) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, " = ")
		named := slices.Contains(names, strings.Trim(value, `"`))
		switch {
		case slices.Contains(ofWriting, key) || key == "merge" && named || strings.HasPrefix(line, "#"):
			continue
		case key == "merging_store" && named:
			line = strings.Replace(line, key, "cow_store", 1)
		case key == "status":
			line = strings.ReplaceAll(strings.ReplaceAll(line, `"VISIBLE"`, ""), ", ", "")
		case strings.HasSuffix(line, "{"):
			depth++
		case line == "}":
			depth--
		}
		volume += line + "\n"
		if depth < 3 { // the group, its logical_volumes or physical_volumes, and one of them
			volumes, volume = append(volumes, volume), ""
		}
	}
	slices.Sort(volumes)
	return volumes
}

// ofWriting are the parts of metadata that tell when it was written.
var ofWriting = []string{"seqno", "creation_time", "creation_host", "description"}
