package snapset

import (
	"context"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Target is a logical volume that the user named, and where its file system is.
type Target struct {
	Volume
	LV    *lvm.Volume
	Group *lvm.Group
	// FS is the device that its file system is on: the volume itself, or the crypt device on it.
	FS     filesystem.Dev
	Crypt  string             // the name of that crypt device; empty: none
	Mounts []filesystem.Mount // of FS, the main one first (see mainMountFirst)
	// Automount is the automount point that would mount it at its first use. Empty if it is mounted, or if there is none.
	Automount string

	Needs   []Need // volumes that its file system cannot be used without
	Journal bool   // it is itself the journal of an ext3 or ext4 file system
}

// Resolve finds the logical volume that each name stands for, and refuses those of which no snapshot can be taken. Its
// error names all that are refused, not only the first: bad_arguments, not_found or unsupported.
func (v *View) Resolve(volumes []Volume) ([]Target, error) {
	var targets []Target
	var errs []error
	namedAs := map[string]string{}
	for _, volume := range volumes {
		t, err := v.resolve(volume)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other, isDuplicate := namedAs[t.LV.FullName()]; isDuplicate {
			errs = append(errs, fault.New(fault.BadArguments, "volumes: %s and %s are the same volume, %s",
				other, volume.Name, t.LV.FullName()).
				WithHint("name each volume once"))
			continue
		}
		namedAs[t.LV.FullName()] = volume.Name
		targets = append(targets, t)
	}
	if err := fault.All(errs...); err != nil {
		return targets, err
	}
	return v.resolveNeeds(targets)
}

// Resolve returns the targets for the volumes that the user named. It takes no lock and changes nothing. Faults: those
// of View.Resolve.
func Resolve(ctx context.Context, r command.Runner, volumes []Volume) ([]Target, error) {
	report, err := lvm.New(r).Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	view := NewView(report, mounts)
	return view.Resolve(volumes)
}

// resolve finds one volume and where its file system is.
func (v *View) resolve(volume Volume) (Target, error) {
	lv, err := v.findVolume(volume.Name)
	if err != nil {
		return Target{}, err
	}
	group, _ := v.Report.Group(lv.VG)
	t := Target{Volume: volume, LV: lv, Group: group, FS: devOf(lv)}
	if err := t.checkUsable(); err != nil {
		return Target{}, err
	}
	if err := t.refuseOwnSnapshot(); err != nil {
		return Target{}, err
	}
	if !lv.Active {
		return t, nil
	}
	isBtrfs := func(m filesystem.Mount) bool { return m.Type == "btrfs" && v.isVolume(m.Source, lv) }
	if slices.ContainsFunc(v.Mounts, isBtrfs) {
		return Target{}, noBtrfs(volume.Name)
	}
	t.Mounts = mainMountFirst(filesystem.On(v.Mounts, t.FS), volume.Name)
	if len(t.Mounts) > 0 {
		return t, nil
	}
	crypt, dev, ok, err := cryptAbove(v.Sysfs, t.FS)
	if err != nil {
		return t, err
	}
	if ok {
		t.Crypt, t.FS, t.Mounts = crypt, dev, mainMountFirst(filesystem.On(v.Mounts, dev), volume.Name)
	}
	if len(t.Mounts) == 0 {
		t.Automount = v.automountPoint(t.FS)
	}
	return t, nil
}

// refuseOwnSnapshot refuses a thin snapshot of a set that was found by a mount point: the snapshot has the UUID of its
// origin's file system, so that a lookup by UUID, as fstab may ask for, may have found it instead of the origin.
func (t *Target) refuseOwnSnapshot() error {
	label, isMember := LabelOf(t.LV)
	if !isMember || t.LV.Origin == "" || t.Name == t.LV.FullName() || strings.HasPrefix(t.Name, "/dev/") {
		return nil
	}
	return fault.New(fault.SetDiffers, "volumes: %s is %s, a snapshot of set %s, and not its origin %s/%s", t.Name,
		t.LV.FullName(), label.Set, t.LV.VG, t.LV.Origin).
		WithHint("was it mounted, or looked up, by the UUID that both have? write /dev/%s/%s into /etc/fstab instead; if "+
			"you mean the snapshot: volumes=%s", t.LV.VG, t.LV.Origin, t.LV.FullName())
}

func noBtrfs(name string) error {
	return fault.New(fault.Unsupported,
		"volumes: %s is btrfs, which must not be mounted twice and so has no usable LVM snapshot", name).
		WithHint("use btrfs's own snapshots for %s", name)
}

// isVolume says whether the device at path is the volume.
func (v *View) isVolume(path string, lv *lvm.Volume) bool {
	dev, err := v.Device(path)
	return err == nil && dev == devOf(lv)
}

// checkUsable refuses a volume of which no snapshot can be taken, or whose kind was never tried.
func (t *Target) checkUsable() error {
	refuse := func(why, hint string) error {
		return fault.New(fault.Unsupported, "%s: %s", t.LV.FullName(), why).WithHint("%s", hint)
	}
	switch {
	case t.Group.Partial:
		return refuse("volume group "+t.Group.Name+" has missing physical volumes", lvm.Missing)
	case t.Group.Exported:
		return refuse("volume group "+t.Group.Name+" is exported", "vgimport "+t.Group.Name)
	case t.Group.Shared || t.Group.Clustered:
		return refuse("volume group "+t.Group.Name+" is shared between hosts",
			"a set of a shared volume group is not supported")
	case t.LV.Kind == lvm.Snapshot: // a thin snapshot is a volume like any other, and may be in a set
		return fault.New(fault.BadArguments, "%s is itself a snapshot, of %s", t.LV.FullName(), t.LV.Origin).
			WithHint("name its origin %s/%s", t.LV.VG, t.LV.Origin)
	case t.LV.Private || t.LV.Hidden:
		return refuse("is a part of another volume", "name the volume that it is a part of")
	case !t.LV.Kind.Thick() && t.LV.Kind != lvm.Thin:
		return refuse("is a "+string(t.LV.Kind)+" volume; only linear, striped and thin volumes are supported",
			"leave it out of the set")
	}
	return nil
}

// cryptAbove returns the open crypt device that lies on the device, if there is one.
func cryptAbove(sysfs string, dev filesystem.Dev) (name string, crypt filesystem.Dev, ok bool, err error) {
	above, err := filesystem.Above(sysfs, dev)
	if err != nil {
		return "", crypt, false, err
	}
	for _, layer := range above {
		if layer.Kind == "crypt" {
			return layer.Name, layer.Dev, true, nil
		}
	}
	return "", crypt, false, nil
}

func devOf(lv *lvm.Volume) filesystem.Dev {
	return filesystem.NewDev(lv.Major, lv.Minor)
}
