package snapset

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// View is what a plan is made from: what LVM and the kernel said at one moment.
type View struct {
	Report *lvm.Report
	Mounts []filesystem.Mount
	Sysfs  string // where sysfs is mounted: /sys
	// Journal is the directory that holds the journal.
	Journal string
	// Device returns the number of a block device by its path, following symbolic links.
	Device func(path string) (filesystem.Dev, error)
	// Behind returns the device that an automount point would mount; false if there is none. nil: none of them.
	Behind func(point string) (filesystem.Dev, bool)
	// Needs reads what the file system on a device needs elsewhere; nil: nothing is looked for.
	Needs func(device string) (filesystem.Needs, error)
	// TakeParts adds the log of a file system that is named, and what else it needs, to the targets.
	TakeParts bool
	// LoopFile asks a loop device for the device that its file is on, and the one that its file is; nil: none is asked.
	LoopFile func(node string) (on, is filesystem.Dev, ok bool)
}

// NewView is a view of the real system.
func NewView(report *lvm.Report, mounts []filesystem.Mount) *View {
	return &View{
		Report: report, Mounts: mounts, Sysfs: "/sys", Journal: journey.State,
		Device: BlockDevice, Behind: behindAutomount, Needs: filesystem.NeedsOf, LoopFile: filesystem.LoopFile,
	}
}

// Target is a logical volume the user means, and where its file system is.
type Target struct {
	Volume
	LV    *lvm.Volume
	Group *lvm.Group
	// FS is the device its file system is on: the LV, or the crypt device above it.
	FS     filesystem.Dev
	Crypt  string             // name of that crypt device; empty without one
	Mounts []filesystem.Mount // of FS, the one that speaks for it first; none if it is not mounted
	// Automount is where it would be mounted by the first look at it. Empty if it is mounted, or by nothing of the kind.
	Automount string

	Needs   []Need // volumes that the file system is nothing without
	Journal bool   // it is itself an ext4 journal
}

// Resolve finds the logical volume behind each word, and refuses what no snapshot can be taken of. It names every
// wrong one, not the first.
func (v *View) Resolve(volumes []Volume) ([]Target, error) {
	var targets []Target
	var wrong []error
	by := map[string]string{}
	for _, volume := range volumes {
		t, err := v.resolve(volume)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if other, twice := by[t.LV.FullName()]; twice {
			wrong = append(wrong, fault.New(fault.BadArguments, "volumes: %s and %s are the same volume, %s", other, volume.Name, t.LV.FullName()).
				WithHint("name each volume once"))
			continue
		}
		by[t.LV.FullName()] = volume.Name
		targets = append(targets, t)
	}
	if err := fault.All(wrong...); err != nil {
		return targets, err
	}
	return v.whole(targets)
}

func (v *View) resolve(volume Volume) (Target, error) {
	lv, err := v.find(volume.Name)
	if err != nil {
		return Target{}, err
	}
	group, _ := v.Report.Group(lv.VG)
	t := Target{Volume: volume, LV: lv, Group: group, FS: devOf(lv)}
	if err := t.usable(); err != nil {
		return Target{}, err
	}
	if !lv.Active {
		return t, nil
	}
	if slices.ContainsFunc(v.Mounts, func(m filesystem.Mount) bool { return m.Type == "btrfs" && v.isOn(m.Source, lv) }) {
		return Target{}, noBtrfs(volume.Name)
	}
	t.Mounts = foremost(filesystem.On(v.Mounts, t.FS), volume.Name)
	if len(t.Mounts) > 0 {
		return t, nil
	}
	crypt, dev, ok, err := v.cryptAbove(t.FS)
	if err != nil {
		return t, err
	}
	if ok {
		t.Crypt, t.FS, t.Mounts = crypt, dev, foremost(filesystem.On(v.Mounts, dev), volume.Name)
	}
	if len(t.Mounts) == 0 {
		t.Automount = v.automount(t.FS)
	}
	return t, nil
}

// find returns the volume a word means. A mount point wins over a name, because vg/lv never starts with a slash.
func (v *View) find(word string) (*lvm.Volume, error) {
	if !strings.HasPrefix(word, "/") {
		return v.byName(word)
	}
	if m, ok := filesystem.At(v.Mounts, word); ok {
		return v.byMount(word, m)
	}
	dev, err := v.Device(word)
	switch {
	case err == nil:
		return v.byDevice(word, dev, "")
	case errors.Is(err, fs.ErrNotExist):
		if strings.HasPrefix(word, "/dev/") {
			return v.byName(word) // an inactive volume has no node
		}
		return nil, fault.New(fault.NotFound, "volumes: %s does not exist", word).
			WithHint("name a mount point (findmnt), vg/lv (lvs) or a device path")
	}
	return nil, v.notMountPoint(word)
}

// mountOf returns the mount that speaks for a volume; an empty one where it is not mounted.
func (v *View) mountOf(vg, name string) filesystem.Mount {
	lv, ok := v.Report.Volume(vg, name)
	if !ok {
		return filesystem.Mount{}
	}
	if mounts := foremost(filesystem.On(v.Mounts, devOf(lv)), ""); len(mounts) > 0 {
		return mounts[0]
	}
	return filesystem.Mount{}
}

func (v *View) byName(word string) (*lvm.Volume, error) {
	vg, name, err := lvm.ParseName(word)
	if err != nil {
		return nil, fault.New(fault.BadArguments, "volumes: %w", err)
	}
	lv, err := v.Report.Need(vg, name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "volumes: %w", err)
	}
	return lv, nil
}

func (v *View) byMount(word string, m filesystem.Mount) (*lvm.Volume, error) {
	if m.Type == "btrfs" { // its mounts show no device that LVM knows
		return nil, noBtrfs(word)
	}
	if m.Type == filesystem.Autofs {
		return v.byAutomount(word, m)
	}
	if m.Root != "/" {
		return nil, fault.New(fault.BadArguments, "volumes: %s is a bind mount of %s of %s, not the whole file system", word, m.Root, m.Source).
			WithHint("name the file system's own mount point or its volume")
	}
	return v.byDevice(word, m.Dev, m.Type)
}

func noBtrfs(word string) error {
	return fault.New(fault.Unsupported, "volumes: %s is btrfs, which must not be mounted twice and so has no usable LVM snapshot", word).
		WithHint("use btrfs's own snapshots for %s", word)
}

// isOn says whether a device by its path is the volume.
func (v *View) isOn(source string, lv *lvm.Volume) bool {
	dev, err := v.Device(source)
	return err == nil && dev == devOf(lv)
}

// byDevice returns the volume that is the device, or the one right below it if the device is a crypt device.
func (v *View) byDevice(word string, dev filesystem.Dev, fstype string) (*lvm.Volume, error) {
	if lv, ok := v.Report.ByDevice(int(dev.Major), int(dev.Minor)); ok {
		return lv, nil
	}
	if dev.Major == 0 {
		return nil, fault.New(fault.Unsupported, "volumes: %s (%s) has no block device, so no LVM volume", word, fstype).
			WithHint("leave it out: only file systems on LVM can be taken into a set")
	}
	below, ok, err := filesystem.VolumeBelow(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	if lv, known := v.Report.ByDevice(int(below.Dev.Major), int(below.Dev.Minor)); ok && known {
		return lv, nil
	}
	if ok {
		return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which LVM does not see", word, below.Name).
			WithHint("%s", lvm.Unseen)
	}
	layers, err := filesystem.Stack(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	name := word
	if len(layers) > 0 {
		name = layers[0].Name
	}
	return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which is not a logical volume", word, name).
		WithHint("leave it out: only file systems on LVM can be taken into a set")
}

// notMountPoint says where a path that is no mount point lies, so that the user can name that.
func (v *View) notMountPoint(word string) error {
	f := fault.New(fault.BadArguments, "volumes: %s is neither a mount point nor a device", word)
	m, err := filesystem.Holding(v.Mounts, word)
	if err != nil {
		return f.WithHint("name a mount point, vg/lv or a device path")
	}
	return f.WithHint("it lies on %s, mounted on %s. If it has a volume of its own, mount that first; to take the whole of %s, name that", m.Source, m.Point, m.Point)
}

// usable refuses what no snapshot can be taken of, or none that was tried.
func (t *Target) usable() error {
	no := func(why, hint string) error {
		return fault.New(fault.Unsupported, "%s: %s", t.LV.FullName(), why).WithHint("%s", hint)
	}
	switch {
	case t.Group.Partial:
		return no("volume group "+t.Group.Name+" has missing physical volumes", lvm.Missing)
	case t.Group.Exported:
		return no("volume group "+t.Group.Name+" is exported", "vgimport "+t.Group.Name)
	case t.Group.Shared || t.Group.Clustered:
		return no("volume group "+t.Group.Name+" is shared between hosts", "a set of a shared volume group is not supported")
	case t.LV.Kind == lvm.Snapshot: // a thin snapshot is a volume like any other, and may be in a set
		return fault.New(fault.BadArguments, "%s is itself a snapshot, of %s", t.LV.FullName(), t.LV.Origin).
			WithHint("name its origin %s/%s", t.LV.VG, t.LV.Origin)
	case t.LV.Private || t.LV.Hidden:
		return no("is a part of another volume", "name the volume that it is a part of")
	case !t.LV.Kind.Thick() && t.LV.Kind != lvm.Thin:
		return no("is a "+string(t.LV.Kind)+" volume; only linear, striped and thin volumes are supported", "leave it out of the set")
	}
	return nil
}

// cryptAbove returns the crypt device that has the volume open, if there is one.
func (v *View) cryptAbove(dev filesystem.Dev) (name string, crypt filesystem.Dev, ok bool, err error) {
	above, err := filesystem.Above(v.Sysfs, dev)
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

// BlockDevice is View.Device for the real system: the number of the block device at path.
func BlockDevice(path string) (filesystem.Dev, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return filesystem.Dev{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return filesystem.Dev{}, fault.New(fault.BadArguments, "%s is no block device", path)
	}
	return filesystem.Dev{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}, nil
}
