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

// unmergeLimit bounds UndoDeferredMerges' wait for other LVM commands. It is short because services are down meanwhile.
const unmergeLimit = 30 * time.Second

// KeepMetadata writes LVM's metadata of each volume group to a file in dir, for UndoDeferredMerges. It makes dir if
// necessary, and runs one command. Faults: not_found, command_failed.
func (l *LVM) KeepMetadata(ctx context.Context, dir string, groups ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return l.backupMetadata(ctx, filepath.Join(dir, "%s"), groups...)
}

// backupMetadata writes the metadata of volume groups to files with vgcfgbackup(8), which replaces %s in path by the
// name of the group. If path is empty, it writes LVM's own backup files (backup_dir in lvm.conf(5)).
func (l *LVM) backupMetadata(ctx context.Context, path string, groups ...string) error {
	// With --readonly the command does not wait for the locks that this process holds.
	argv := []string{"lvm", "vgcfgbackup", "--readonly", "--config", config}
	if path != "" {
		argv = append(argv, "--file", path)
	}
	_, err := l.query(ctx, append(append(argv, "--"), groups...)...)
	return explain(err)
}

// DeferredMerge is a deferred merge: LVM has recorded it and put it off. The names have no volume group.
type DeferredMerge struct{ Origin, Snapshot string }

// UndoDeferredMerges takes back deferred merges of one volume group. LVM recorded them after KeepMetadata(dir), and put
// them off because the origin or the snapshot was open. The snapshots are then as they were before; thin ones have no
// device until they are activated.
//
// LVM has no command for this. UndoDeferredMerges restores the kept metadata (vgcfgrestore(8)) while it holds the lock
// of the group. It does so only if nothing but these merges has changed since, and if the kernel has each origin as it
// was before its merge.
//
// Faults: busy (another LVM command has changed the group, or a merge has begun or is about to begin), locked,
// unsupported (LVM keeps its lock files elsewhere), not_found (no metadata was kept), command_failed.
func (l *LVM) UndoDeferredMerges(ctx context.Context, dir, group string, merges ...DeferredMerge) error {
	keptFile := filepath.Join(dir, group)
	keptMetadata, err := os.ReadFile(keptFile)
	if err != nil {
		return fault.New(fault.NotFound, "the metadata of volume group %s that was kept before the merge is missing: %w",
			group, err)
	}
	if err := l.CheckLockDir(ctx); err != nil {
		return fault.New(fault.Of(err).Code, "the merges cannot be taken back: %w", err)
	}
	locks, err := l.lockGroups(ctx, []string{group}, unmergeLimit)
	if err != nil {
		return err
	}
	defer locks.Release()
	var names []string
	for _, m := range merges {
		names = append(names, m.Origin, m.Snapshot)
	}
	keptVolumes := withoutMerges(keptMetadata, names)
	if err := l.requireNotBegun(group, merges, keptVolumes); err != nil {
		return err
	}
	restoreFile := keptFile + "@now" // no volume group has such a name
	defer os.Remove(restoreFile)
	if err := l.backupMetadata(ctx, restoreFile, group); err != nil {
		return err
	}
	currentMetadata, err := os.ReadFile(restoreFile)
	if err != nil {
		return err
	}
	if !slices.Equal(keptVolumes, withoutMerges(currentMetadata, names)) {
		return fault.New(fault.Busy, "another LVM command has changed volume group %s since the rollback began", group)
	}
	// LVM continues to count from the seqno in the file, and no two states of the group may have the same seqno.
	text := strings.Replace(string(keptMetadata), seqnoLine(keptMetadata), seqnoLine(currentMetadata), 1)
	if err := os.WriteFile(restoreFile, []byte(text), 0o600); err != nil {
		return err
	}
	// Without --force LVM restores no group that has thin pools, because it cannot know whether the pools' own metadata is
	// of the same time. Here it is, because the kept and the current metadata differ only in the merges. Without --yes LVM
	// asks, because some volumes of the group are active.
	argv := []string{"lvm", "vgcfgrestore", "--nolocking", "--yes", "--force", "--file", restoreFile, "--", group}
	if _, err := l.changeLocked(ctx, locks, argv...); err != nil {
		return err
	}
	// vgcfgrestore writes no backup file of what it restores, and the last one still has the merges.
	_ = l.backupMetadata(ctx, "", group)
	return nil
}

// requireNotBegun returns busy unless the kernel has every origin as it was before the merges: a thick one as the
// origin of snapshots, a thin one with its old device id. volumes are the kept metadata as withoutMerges returns it.
// LVM's current metadata does not tell, because it shows a merge that runs as it shows one that is deferred, until
// LVM's poller has seen its end.
func (l *LVM) requireNotBegun(group string, merges []DeferredMerge, volumes []string) error {
	m, err := l.openMapper()
	if err != nil {
		return err
	}
	defer m.Close()
	for _, merge := range merges {
		device := DMName(group, merge.Origin)
		origin, err := m.Mapping(device)
		if err != nil {
			return fault.New(fault.Busy, "whether the merge into %s has begun is not known: %w", device, err)
		}
		if err := requireAtRest(device, origin); err != nil {
			return err
		}
		deviceID := thinDeviceID(volumes, merge.Origin)
		unchangedThin := deviceID != "" && hasSingleTarget(origin, "thin") && len(origin.Table[0].Args) > 1 &&
			origin.Table[0].Args[1] == deviceID
		if !unchangedThin && !(deviceID == "" && hasSingleTarget(origin, "snapshot-origin")) {
			return fault.New(fault.Busy, "the kernel has begun the merge into %s", device)
		}
	}
	return nil
}

// thinDeviceID returns the id by which its pool knows a thin volume, or "" if the volume is not thin. volumes are
// metadata as withoutMerges returns it.
func thinDeviceID(volumes []string, name string) string {
	for _, text := range volumes {
		if !strings.HasPrefix(text, name+" {\n") || !strings.Contains(text, "\ntype = \"thin\"\n") {
			continue
		}
		for line := range strings.Lines(text) {
			if key, id, _ := strings.Cut(strings.TrimSpace(line), " = "); key == "device_id" {
				return id
			}
		}
	}
	return ""
}

// seqnoLine returns the line of a group's metadata that has the seqno, which LVM increases with each change.
func seqnoLine(metadata []byte) string {
	for line := range strings.Lines(string(metadata)) {
		if strings.HasPrefix(strings.TrimSpace(line), "seqno = ") {
			return line
		}
	}
	return ""
}

// withoutMerges returns metadata as if the deferred merges of the named volumes were not recorded, so that two states
// of a group can be compared. Each element is the text of one volume, or of one other part of the metadata, and they
// are sorted. A deferred merge changes only the following (lvm2, lib/format_text/export.c and
// metadata/snapshot_manip.c): a thick snapshot has a merging_store instead of a cow_store, and a thin one names the
// volume that it merges into. Either is hidden, and is written after the visible volumes. withoutMerges also leaves out
// volatileKeys.
func withoutMerges(metadata []byte, names []string) []string {
	var volumes []string
	volume, depth := "", 0
	for line := range strings.Lines(string(metadata)) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, " = ")
		isNamed := slices.Contains(names, strings.Trim(value, `"`))
		switch {
		case slices.Contains(volatileKeys, key) || key == "merge" && isNamed || strings.HasPrefix(line, "#"):
			continue
		case key == "merging_store" && isNamed:
			line = strings.Replace(line, key, "cow_store", 1)
		case key == "status":
			line = strings.ReplaceAll(strings.ReplaceAll(line, `"VISIBLE"`, ""), ", ", "")
		case strings.HasSuffix(line, "{"):
			depth++
		case line == "}":
			depth--
		}
		volume += line + "\n"
		if depth < 3 { // depth 1 is the group, 2 its logical_volumes or physical_volumes, 3 one volume
			volumes, volume = append(volumes, volume), ""
		}
	}
	slices.Sort(volumes)
	return volumes
}

// volatileKeys are the keys of metadata that say when and after how many changes it was written, and by which name a
// disk was known then.
var volatileKeys = []string{"seqno", "creation_time", "creation_host", "description", "device"}
