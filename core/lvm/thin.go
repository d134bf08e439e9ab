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

// ThinSnapshot is a thin snapshot, its origin and their pool, by their names in the
// volume group VG.
type ThinSnapshot struct {
	VG, Pool, Origin, Snapshot string

	// Tag is one that the snapshot has and no other volume.
	Tag string
}

// thinIDs returns by which number (thin_id) the pools know the pairs' volumes, by
// vg/lv. A pool is told these numbers, and LVM gives that of a removed volume to
// the next one: so they are read, and used, while the groups are locked, and a
// snapshot counts only with its tag.
func (l *LVM) thinIDs(ctx context.Context, pairs []Pair) (map[string]int64, error) {
	var names []string
	tags := map[string]string{}
	for _, p := range pairs {
		if p.Thin != nil {
			tags[p.Thin.snapshot()] = p.Thin.Tag
			names = append(names, p.Thin.VG+"/"+p.Thin.Origin, p.Thin.snapshot())
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	// With --readonly it does not wait for the locks that this process holds.
	argv := []string{"lvm", "lvs", "--readonly", "--reportformat", "json", "--config", reportConfig + config,
		"--options", "vg_name,lv_name,thin_id,lv_tags", "--"}
	out, err := l.look(ctx, append(argv, names...)...)
	if err != nil {
		return nil, explain(err)
	}
	parts, err := decodeParts(out.Stdout)
	if err != nil {
		return nil, err
	}
	ids := map[string]int64{}
	for _, p := range parts {
		for _, row := range p.LV {
			f := reader{row: row}
			name, id, has := f.text("vg_name")+"/"+f.text("lv_name"), f.number("thin_id"), f.list("lv_tags")
			if f.err != nil {
				return nil, unreadable(out.Stdout, f.err)
			}
			if tag, tagged := tags[name]; !tagged || slices.Contains(has, tag) {
				ids[name] = id
			}
		}
	}
	return ids, nil
}

func (t *ThinSnapshot) snapshot() string { return t.VG + "/" + t.Snapshot }

// LocksHere refuses (unsupported) a server on which LVM locks volume groups
// elsewhere than PrepareInstant does: then its commands do not wait for this
// process, and thin volumes cannot be made ready. One command.
func (l *LVM) LocksHere(ctx context.Context) error {
	dirs, err := l.directories(ctx, "global/locking_dir")
	if err != nil || sameDirectory(dirs[0], lockDir) {
		return err
	}
	return fault.New(fault.Unsupported, "LVM locks volume groups in %s (global/locking_dir in lvm.conf), not in %s: "+
		"nothing keeps its commands away from thin volumes while a set of several volumes is taken", dirs[0], lockDir).
		WithHint("set it to %s, or give consistency=volume if each volume may be of its own instant", lockDir)
}

// sameDirectory knows a directory by its other names. One that is not there yet is known by its own.
func sameDirectory(a, b string) bool {
	first, err1 := os.Stat(a)
	second, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(first, second) || filepath.Clean(a) == filepath.Clean(b)
}

// prepareThin deletes a snapshot from its pool, and has Take make it again under
// the same number: the pool's messages are the kernel's (linux,
// Documentation/admin-guide/device-mapper/thin-provisioning.rst). LVM's metadata
// and the pool's transaction stay what they are. The kernel refuses to delete what
// is active.
func (i *Instant) prepareThin(p Pair, ids map[string]int64) error {
	origin, err := i.mapper.Mapping(p.Origin)
	if err != nil {
		return err
	}
	if err := atRest(p.Origin, origin); err != nil {
		return err
	}
	pool := DMName(p.Thin.VG, p.Thin.Pool) + poolSuffix
	mapped, err := i.mapper.Mapping(pool)
	if err != nil {
		return err
	}
	if err := atRest(pool, mapped); err != nil {
		return err
	}
	number, id := ids[p.Thin.VG+"/"+p.Thin.Origin], ids[p.Thin.snapshot()]
	if id == 0 || id == number {
		return fault.New(fault.Busy, "another LVM command removed or changed %s, a snapshot of the set, while the "+
			"set was taken", p.Thin.snapshot()).WithHint(takeAgain)
	}
	want := []string{mapped.number(), fmt.Sprint(number)}
	if !kindIs(mapped, "thin-pool") || !kindIs(origin, "thin") || len(origin.Table[0].Args) < 2 ||
		!slices.Equal(origin.Table[0].Args[:2], want) {
		return fault.New(fault.Unsupported, "%s is not mapped as LVM maps a volume of thin pool %s", p.Origin, pool).
			With("tables", map[string]any{p.Origin: origin.Table, pool: mapped.Table, "wanted": want})
	}
	if _, err := i.mapper.Mapping(p.Snapshot); !errors.Is(err, fault.NotFound) {
		found := fault.New(fault.Busy, "there is a device %s already: another LVM command activated %s, a snapshot of "+
			"the set, while the set was taken, or the device is a leftover", p.Snapshot, p.Thin.snapshot())
		return fault.All(found.WithHint("take the set again; if that is of no use: dmsetup info %[1]s, "+
			"dmsetup remove %[1]s", p.Snapshot), err)
	}
	deletion := i.mapper.Message(pool, fmt.Sprintf("delete %d", id))
	if err := deviceFault("empty the snapshot", p.Snapshot, again(deletion)); err != nil {
		return err
	}
	failpoint.Hit("instant.prepare")
	i.add(p, i.mapper.Message(pool, fmt.Sprintf("create_snap %d %d", id, number)), nil)
	return nil
}

// poolSuffix is the end of the name of the device of an active thin pool
// (dev_manager.c, "tpool").
const poolSuffix = "-tpool"
