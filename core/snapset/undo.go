package snapset

import (
	"context"
	"errors"
	"os"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Undo brings the server back to the state without the planned set, whatever was done of it: lets writes to the
// origins go on, puts back what an LVM command left of their devices, removes the snapshots. It believes LVM and the
// kernel, not the plan, touches no snapshot of another id, and may be called again.
func Undo(ctx context.Context, l *lvm.LVM, p *Plan) error {
	err := fault.All(p.letGo(l), p.putBack(ctx, l))
	if len(p.Mounted) > 0 {
		err = fault.All(err, unmountTargets(ctx, p.Mounted))
	}
	if err != nil || p.ID == "" {
		return err
	}
	_ = os.Remove(lvmRoom(p.ID))
	report, err := l.Report(ctx)
	if err != nil {
		return err
	}
	// The snapshot of the volume that holds the journal goes last: see cameBack.
	var first, last []*lvm.Volume
	for _, v := range p.snapshots(report) {
		if taken := takenOf(report, v); taken != nil {
			err = fault.All(err, taken)
			continue
		}
		if p.isHome(v) {
			last = append(last, v)
		} else {
			first = append(first, v)
		}
	}
	if len(first)+len(last) == 0 {
		return err
	}
	// What a half-made snapshot still used of its origin's devices is put back when it is gone.
	return fault.All(err, p.remove(ctx, l, first), p.remove(ctx, l, last), p.putBack(ctx, l))
}

// snapshots are what there is of the set in the volume groups of its members: a copy of a group has the same tags.
func (p *Plan) snapshots(r *lvm.Report) []*lvm.Volume {
	var found []*lvm.Volume
	groups := p.Groups()
	for _, v := range r.ByTag(tagID + p.ID) {
		if len(groups) == 0 || slices.Contains(groups, v.VG) {
			found = append(found, v)
		}
	}
	return found
}

// putBack puts back what an LVM command left of the origins' devices.
func (p *Plan) putBack(ctx context.Context, l *lvm.LVM) error {
	if len(p.Members) == 0 {
		return nil
	}
	return l.Unsuspend(ctx, p.devices())
}

func (p *Plan) remove(ctx context.Context, l *lvm.LVM, snapshots []*lvm.Volume) error {
	if len(snapshots) == 0 {
		return nil
	}
	var devices []string
	for _, v := range snapshots {
		devices = append(devices, v.DMName)
	}
	if len(p.Members) > 0 {
		if err := l.Disarm(devices...); err != nil {
			return err
		}
	}
	if err := awaitClosed(ctx, l, devices); err != nil {
		return err
	}
	return l.Remove(ctx, names(snapshots)...)
}

// letGo lets writes to the members go on that wait for this set. It asks no program, so it is done at once.
func (p *Plan) letGo(l *lvm.LVM) error {
	var held, logs []string
	var errs []error
	for _, m := range p.Members {
		switch {
		case m.Method != Held:
		case m.Log: // the thaw of the file system writes to it
			logs = append(logs, m.DMName)
		default:
			held = append(held, m.DMName)
		}
	}
	held = append(logs, held...)
	if len(held) > 0 {
		errs = append(errs, l.Release(held...))
	}
	for _, m := range p.Members {
		if m.Target == nil {
			continue
		}
		if err := filesystem.ThawMount(*m.Target); !errors.Is(err,
			fault.NotFound) { // unmounted meanwhile: it is not frozen any more
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}

// devices are the origins, vg/lv, by their devices' names.
func (p *Plan) devices() map[string]string {
	out := map[string]string{}
	for _, m := range p.Members {
		out[m.DMName] = m.origin()
	}
	return out
}

func (p *Plan) isHome(snapshot *lvm.Volume) bool {
	for _, m := range p.Members {
		if m.Home && m.VG == snapshot.VG && m.Snapshot == snapshot.Name {
			return true
		}
	}
	return false
}
