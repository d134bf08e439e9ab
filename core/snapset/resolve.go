package snapset

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/postgres"
)

// View is what LVM and the kernel said at one moment, and how to ask them for more. Plans are made from it.
type View struct {
	Report *lvm.Report
	Mounts []filesystem.Mount
	Sysfs  string // where sysfs is mounted: /sys
	// Journal is the directory that holds the journal.
	Journal string
	// Device returns the number of a block device by its path, following symbolic links.
	Device func(path string) (filesystem.Dev, error)
	// Behind returns the device that an automount point would mount; false if it is not known. nil: it is known for none.
	Behind func(point string) (filesystem.Dev, bool)
	// Needs reads from a device which other devices the file system on it needs. nil: needs are not looked for.
	Needs func(device string) (filesystem.Needs, error)
	// TakeParts has Resolve add to the targets what a named file system needs, such as its log.
	TakeParts bool
	// LoopFile returns the device that a loop device's file is on, and, if that file is itself a device, which one. nil:
	// loop devices are not looked at.
	LoopFile func(node string) (backing, fileDevice filesystem.Dev, ok bool)
	// Clusters returns the PostgreSQL clusters that run. nil: they are not looked for.
	Clusters func() ([]postgres.Cluster, error)
}

// NewView returns a View of the real system.
func NewView(report *lvm.Report, mounts []filesystem.Mount) *View {
	return &View{
		Report: report, Mounts: mounts, Sysfs: "/sys", Journal: journey.StateDir,
		Device: filesystem.BlockDevice, Behind: behindAutomount, Needs: filesystem.NeedsOf, LoopFile: filesystem.LoopFile,
		Clusters: sync.OnceValues(postgres.Running),
	}
}

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
	crypt, dev, ok, err := v.cryptAbove(t.FS)
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

// findVolume returns the volume that a name stands for. A name that begins with a slash is a mount point or else a
// device path; any other is vg/lv.
func (v *View) findVolume(name string) (*lvm.Volume, error) {
	if !strings.HasPrefix(name, "/") {
		return v.findByName(name)
	}
	if m, ok := filesystem.At(v.Mounts, name); ok {
		return v.findByMount(name, m)
	}
	dev, err := v.Device(name)
	switch {
	case err == nil:
		return v.findByDevice(name, dev, "")
	case errors.Is(err, fs.ErrNotExist):
		if strings.HasPrefix(name, "/dev/") {
			return v.findByName(name) // an inactive volume has no device node
		}
		return nil, fault.New(fault.NotFound, "volumes: %s does not exist", name).
			WithHint("name a mount point (findmnt), vg/lv (lvs) or a device path")
	}
	return nil, v.notMountPointFault(name)
}

// mainMount returns the main mount of a volume (see mainMountFirst); an empty one if it is not mounted.
func (v *View) mainMount(vg, name string) filesystem.Mount {
	lv, ok := v.Report.Volume(vg, name)
	if !ok {
		return filesystem.Mount{}
	}
	if mounts := mainMountFirst(filesystem.On(v.Mounts, devOf(lv)), ""); len(mounts) > 0 {
		return mounts[0]
	}
	return filesystem.Mount{}
}

func (v *View) findByName(name string) (*lvm.Volume, error) {
	vg, lvName, err := lvm.ParseName(name)
	if err != nil {
		return nil, fault.New(fault.BadArguments, "volumes: %w", err)
	}
	lv, err := v.Report.Need(vg, lvName)
	if err != nil {
		return nil, fault.New(fault.NotFound, "volumes: %w", err)
	}
	return lv, nil
}

func (v *View) findByMount(name string, m filesystem.Mount) (*lvm.Volume, error) {
	if m.Type == "btrfs" { // the device number of its mounts is not that of a volume
		return nil, noBtrfs(name)
	}
	if m.Type == filesystem.Autofs {
		return v.findByAutomount(name, m)
	}
	if m.Root != "/" {
		return nil, fault.New(fault.BadArguments, "volumes: %s is a bind mount of %s of %s, not the whole file system",
			name, m.Root, m.Source).
			WithHint("name the file system's own mount point or its volume")
	}
	return v.findByDevice(name, m.Dev, m.Type)
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

// findByDevice returns the volume that the device is, or if it is a crypt device, the volume below it. name is what the
// user named, for the error.
func (v *View) findByDevice(name string, dev filesystem.Dev, fstype string) (*lvm.Volume, error) {
	if lv, ok := v.Report.ByDevice(int(dev.Major), int(dev.Minor)); ok {
		return lv, nil
	}
	if dev.Major == 0 {
		return nil, fault.New(fault.Unsupported, "volumes: %s (%s) has no block device, so no LVM volume", name, fstype).
			WithHint("leave it out: only file systems on LVM can be taken into a set")
	}
	belowLayer, ok, err := filesystem.VolumeBelow(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	if lv, known := v.Report.ByDevice(int(belowLayer.Dev.Major), int(belowLayer.Dev.Minor)); ok && known {
		return lv, nil
	}
	if ok {
		return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which LVM does not see", name, belowLayer.Name).
			WithHint("%s", lvm.Unseen)
	}
	layers, err := filesystem.Stack(v.Sysfs, dev)
	if err != nil {
		return nil, err
	}
	deviceName := name
	if len(layers) > 0 {
		deviceName = layers[0].Name
	}
	return nil, fault.New(fault.Unsupported, "volumes: %s is on %s, which is not a logical volume", name, deviceName).
		WithHint("leave it out: only file systems on LVM can be taken into a set")
}

// notMountPointFault refuses a path that is neither a mount point nor a device, and says which mount it lies on, so
// that the user can name that.
func (v *View) notMountPointFault(name string) error {
	f := fault.New(fault.BadArguments, "volumes: %s is neither a mount point nor a device", name)
	m, err := filesystem.Holding(v.Mounts, name)
	if err != nil {
		return f.WithHint("name a mount point, vg/lv or a device path")
	}
	return f.WithHint("it lies on %s, mounted on %s. If it has a volume of its own, mount that first; "+
		"to take the whole of %s, name that", m.Source, m.Point, m.Point)
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
