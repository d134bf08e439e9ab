package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
)

// snapshotsOfTags checks that each snapshot still has its tag, and returns the ids (thin_id) by which the pools know
// the thin snapshots and origins, by vg/lv. LVM gives the name and the thin_id of a removed volume to the next one. So
// the snapshots are looked up, and then changed, while the groups are locked. Fault: busy if a snapshot does not have
// its tag: it is another volume, whose content must stay.
func (l *LVM) snapshotsOfTags(ctx context.Context, pairs []SnapshotPair) (map[string]int64, error) {
	var names []string
	for _, p := range pairs {
		names = append(names, p.VG+"/"+p.Origin, p.snapshotName())
	}
	// With --readonly the command does not wait for the locks that this process holds.
	argv := []string{"lvm", "lvs", "--readonly", "--reportformat", "json", "--config", reportConfig + config,
		"--options", "vg_name,lv_name,thin_id,lv_tags", "--"}
	out, err := l.query(ctx, append(argv, names...)...)
	if err != nil {
		return nil, explain(err)
	}
	entries, err := decodeEntries(out.Stdout)
	if err != nil {
		return nil, err
	}
	ids, tagsOf := map[string]int64{}, map[string][]string{}
	for _, entry := range entries {
		for _, row := range entry.LV {
			cells := rowReader{row: row}
			name := cells.text("vg_name") + "/" + cells.text("lv_name")
			ids[name], tagsOf[name] = cells.number("thin_id"), cells.list("lv_tags")
			if cells.err != nil {
				return nil, unreadableReport(out.Stdout, cells.err)
			}
		}
	}
	for _, p := range pairs {
		if !slices.Contains(tagsOf[p.snapshotName()], p.Tag) {
			return nil, replacedMeanwhile(p)
		}
	}
	return ids, nil
}

// replacedMeanwhile is the fault of a snapshot that is no longer the one that was made for the set.
func replacedMeanwhile(p SnapshotPair) error {
	return fault.New(fault.Busy, "another LVM command removed or changed %s, a snapshot of the set, while the set was "+
		"taken", p.snapshotName()).WithHint(takeAgainHint)
}

// CheckLockDir checks that LVM keeps its lock files for volume groups in the directory that this package uses. If it
// does not, LVM's commands do not wait for this process, and PrepareInstant cannot work safely on thin volumes.
// CheckLockDir runs one command. Faults: unsupported if the directory is another one; command_failed.
func (l *LVM) CheckLockDir(ctx context.Context) error {
	dirs, err := l.directories(ctx, "global/locking_dir")
	if err != nil || isSameDirectory(dirs[0], lockDir) {
		return err
	}
	return fault.New(fault.Unsupported, "LVM locks volume groups in %s (global/locking_dir in lvm.conf), not in %s, "+
		"so that no LVM command would wait for Rewind", dirs[0], lockDir).
		WithHint("set it to %s, or give consistency=volume if each volume may be of its own instant", lockDir)
}

// isSameDirectory reports whether two paths name the same directory. Paths of directories that do not exist are
// compared as text.
func isSameDirectory(a, b string) bool {
	first, err1 := os.Stat(a)
	second, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(first, second) || filepath.Clean(a) == filepath.Clean(b)
}

// prepareThin deletes a thin snapshot from its pool. Take will make it again under the same id. Both are messages that
// the kernel's thin-pool target takes (linux, Documentation/admin-guide/device-mapper/thin-provisioning.rst). LVM's
// metadata and the pool's transaction id stay the same. The kernel refuses to delete an active snapshot.
func (i *Instant) prepareThin(p SnapshotPair, ids map[string]int64) error {
	device := p.SnapshotDevice()
	origin, err := i.mapper.Mapping(p.OriginDevice())
	if err != nil {
		return err
	}
	if err := requireAtRest(p.OriginDevice(), origin); err != nil {
		return err
	}
	pool := DMName(p.VG, p.Pool) + poolSuffix
	poolMapping, err := i.mapper.Mapping(pool)
	if err != nil {
		return err
	}
	if err := requireAtRest(pool, poolMapping); err != nil {
		return err
	}
	originID, snapshotID := ids[p.VG+"/"+p.Origin], ids[p.snapshotName()]
	if snapshotID == 0 || snapshotID == originID {
		return replacedMeanwhile(p)
	}
	want := []string{poolMapping.deviceNumber(), fmt.Sprint(originID)}
	if !hasSingleTarget(poolMapping, "thin-pool") || !hasSingleTarget(origin, "thin") || len(origin.Table[0].Args) < 2 ||
		!slices.Equal(origin.Table[0].Args[:2], want) {
		return fault.New(fault.Unsupported, "%s is not mapped as LVM maps a volume of thin pool %s", p.OriginDevice(), pool).
			With("tables", map[string]any{p.OriginDevice(): origin.Table, pool: poolMapping.Table, "wanted": want})
	}
	if _, err := i.mapper.Mapping(device); !errors.Is(err, fault.NotFound) {
		busy := fault.New(fault.Busy, "there is a device %s already: another LVM command activated %s, a snapshot of "+
			"the set, while the set was taken, or the device is a leftover", device, p.snapshotName())
		return fault.All(busy.WithHint("take the set again; if that is of no use: dmsetup info %[1]s, "+
			"dmsetup remove %[1]s", device), err)
	}
	deletion := i.mapper.Message(pool, fmt.Sprintf("delete %d", snapshotID))
	if err := deviceFault("delete from its pool", device, retryInterrupted(deletion)); err != nil {
		return err
	}
	failpoint.Hit("instant.prepare")
	i.addMember(p, i.mapper.Message(pool, fmt.Sprintf("create_snap %d %d", snapshotID, originID)), nil)
	return nil
}

// poolSuffix ends the name of the device that has an active thin pool's target (dev_manager.c, "tpool").
const poolSuffix = "-tpool"
