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

// backup writes metadata into files as vgcfgbackup(8) does: %s in path is the
// group. Without a path they are LVM's own (backup_dir in lvm.conf(5)).
func (l *LVM) backup(ctx context.Context, path string, groups ...string) error {
	// With --readonly it does not wait for the locks that this process holds.
	argv := []string{"lvm", "vgcfgbackup", "--readonly", "--config", config}
	if path != "" {
		argv = append(argv, "--file", path)
	}
	_, err := l.look(ctx, append(append(argv, "--"), groups...)...)
	return explain(err)
}

// Waiting is a merge that LVM has recorded and put off.
type Waiting struct{ Origin, Snapshot string }

// Unmerge takes back merges that LVM has recorded in a volume group since
// KeepMetadata(dir) and put off, because the origin or the snapshot was open.
// Snapshots are shown again as they were; thin ones have no device until they are
// activated.
//
// LVM has no command for it: the kept metadata is restored (vgcfgrestore(8)), under
// the lock of the group, and only if nothing but these merges has changed since,
// and the kernel has each origin as it was before its merge.
//
// Faults: busy (another LVM command has changed the group, or a merge has begun or
// is about to), locked, unsupported (LVM locks elsewhere), not_found (no metadata
// was kept), command_failed.
func (l *LVM) Unmerge(ctx context.Context, dir, group string, merges ...Waiting) error {
	kept := filepath.Join(dir, group)
	before, err := os.ReadFile(kept)
	if err != nil {
		return fault.New(fault.NotFound, "what LVM had recorded of volume group %s before is not there: %w", group, err)
	}
	if err := l.LocksHere(ctx); err != nil {
		return fault.New(fault.Of(err).Code, "nothing would keep other LVM commands away: LVM locks volume groups "+
			"elsewhere (global/locking_dir in lvm.conf)")
	}
	locks, err := l.lock(ctx, []string{group}, unmergeLimit)
	if err != nil {
		return err
	}
	defer locks.Release()
	var names []string
	for _, m := range merges {
		names = append(names, m.Origin, m.Snapshot)
	}
	volumes := withoutMerges(before, names)
	if err := l.notBegun(group, merges, volumes); err != nil {
		return err
	}
	file := kept + "@now" // no volume group has such a name
	defer os.Remove(file)
	if err := l.backup(ctx, file, group); err != nil {
		return err
	}
	now, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !slices.Equal(volumes, withoutMerges(now, names)) {
		return fault.New(fault.Busy, "another LVM command has changed volume group %s since the rollback began", group)
	}
	// LVM counts on from the number in the file: no two states of the group may have the same.
	text := strings.Replace(string(before), seqno(before), seqno(now), 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	// --force: LVM restores no group with thin pools without it, because it cannot know whether the pools' own metadata
	// is of the same time. It is: the two differ in merges only. --yes: some of its volumes are active.
	argv := []string{"lvm", "vgcfgrestore", "--nolocking", "--yes", "--force", "--file", file, "--", group}
	if err := l.changeUnder(ctx, locks, argv...); err != nil {
		return err
	}
	_ = l.backup(ctx, "", group) // LVM makes no copy of what it restores, and its last one is of the merges
	return nil
}

// notBegun fails (busy) unless the kernel has every origin as it was before: a thick one as the origin of snapshots, a
// thin one as the volume that its pool knew it by. Volumes are what the kept metadata says of each. A merge that LVM
// has told the kernel of is recorded as one that waits until LVM's poller has seen its end.
func (l *LVM) notBegun(group string, merges []Waiting, volumes []string) error {
	m, err := l.mapper()
	if err != nil {
		return err
	}
	defer m.Close()
	for _, w := range merges {
		device := DMName(group, w.Origin)
		origin, err := m.Mapping(device)
		if err != nil {
			return fault.New(fault.Busy, "whether the merge into %s has begun is not known: %w", device, err)
		}
		if err := atRest(device, origin); err != nil {
			return err
		}
		thin := thinID(volumes, w.Origin)
		isThin := thin != "" && kindIs(origin, "thin") && len(origin.Table[0].Args) > 1 && origin.Table[0].Args[1] == thin
		if !isThin && !(thin == "" && kindIs(origin, "snapshot-origin")) {
			return fault.New(fault.Busy, "the kernel has begun the merge into %s", device)
		}
	}
	return nil
}

// thinID returns the number by which its pool knows a thin volume; empty: it is none.
func thinID(volumes []string, name string) string {
	for _, v := range volumes {
		if !strings.HasPrefix(v, name+" {\n") || !strings.Contains(v, "\ntype = \"thin\"\n") {
			continue
		}
		for line := range strings.Lines(v) {
			if key, id, _ := strings.Cut(strings.TrimSpace(line), " = "); key == "device_id" {
				return id
			}
		}
	}
	return ""
}

// seqno is the line of metadata that says how often the group was changed.
func seqno(metadata []byte) string {
	for line := range strings.Lines(string(metadata)) {
		if strings.HasPrefix(strings.TrimSpace(line), "seqno = ") {
			return line
		}
	}
	return ""
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

// ofWriting are the parts of metadata that tell when it was written, and by which name a disk was known then.
var ofWriting = []string{"seqno", "creation_time", "creation_host", "description", "device"}
