package snapset

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// MountDir is where a set is mounted if the user names no place: below it, set/group/volume.
const MountDir = journey.Run + "/mounts"

// MountOptions say where and how a set is mounted.
type MountOptions struct {
	Point   string `json:"point"`   // for one snapshot the mount point, for several the directory of theirs
	Create  bool   `json:"create"`  // make mount points that do not exist
	Options string `json:"options"` // beside ro, noatime, and nouuid for XFS; rw instead of ro
}

// place is where one snapshot is, or will be, mounted.
type place struct {
	snapshot *lvm.Volume
	point    string
	options  string
}

// mounted mounts what is not mounted yet. before is the result of making the set; after a failure a set that was made
// by this call is removed again, and no other.
func (w *work) mounted(ctx context.Context, before ansible.Result) (ansible.Result, error) {
	if w.Check && (w.set == nil || before.Changed) {
		before.Msg += " and mount it"
		return before, nil
	}
	mounted := before
	places, err := w.places()
	if err == nil {
		mounted, err = w.mountPlaces(ctx, before, places)
	}
	switch {
	case err == nil:
		return mounted, nil
	case w.made != "":
		return ansible.Result{}, fault.All(err, w.removeMade(ctx))
	case before.Changed:
		err = fault.New(fault.Of(err).Code, "%s, which stays so, but it is not mounted: %w", before.Msg, err)
	}
	return ansible.Result{}, err
}

// removeMade removes the set that this run took.
func (w *work) removeMade(ctx context.Context) error {
	plan := w.set.removal(nil)
	if err := w.trip.Begin(Kind, w.Set, plan.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := undone(ctx, w.lvm, plan); err != nil {
		return err
	}
	return w.trip.Finish("removed", journal.Done, nil)
}

// places says where each snapshot goes, and refuses points that cannot be.
func (w *work) places() ([]place, error) {
	if len(w.targets) == 0 {
		if err := w.targetsOfSet(); err != nil {
			return nil, err
		}
	}
	count := map[string]int{}
	for _, t := range w.targets {
		count[t.LV.Name]++
	}
	var out []place
	var wrong []error
	for i := range w.targets {
		t := &w.targets[i]
		if IsPart(t, w.targets) {
			continue
		}
		p := place{snapshot: w.snapshotOf(t.LV), point: t.Mountpoint, options: t.Options}
		switch {
		case p.point != "":
		case w.Mount.Point == "":
			p.point = filepath.Join(MountDir, w.Set, t.LV.VG, t.LV.Name)
		case len(w.targets) == 1:
			p.point = w.Mount.Point
		case count[t.LV.Name] > 1:
			p.point = filepath.Join(w.Mount.Point, t.LV.VG, t.LV.Name)
		default:
			p.point = filepath.Join(w.Mount.Point, t.LV.Name)
		}
		if p.options == "" {
			p.options = w.Mount.Options
		}
		wrong = append(wrong, w.placeable(t, p))
		out = append(out, p)
	}
	return out, fault.All(wrong...)
}

func (w *work) placeable(t *Target, p place) error {
	if p.snapshot == nil {
		return fault.New(fault.SetDiffers, "set %s has no snapshot of %s", w.Set, t.LV.FullName())
	}
	if t.Crypt != "" {
		return fault.New(fault.Unsupported, "%s is encrypted (LUKS); its snapshot is not opened for mounting", t.LV.FullName()).
			WithHint("by hand: cryptsetup open --readonly %s NAME, then mount -o ro /dev/mapper/NAME", p.snapshot.Path)
	}
	if m, ok := filesystem.At(w.view.Mounts, p.point); ok && m.Dev != devOf(p.snapshot) {
		return fault.New(fault.Busy, "%s: %s is mounted there already", p.point, m.Source).WithHint("choose another mountpoint")
	}
	if _, err := os.Stat(p.point); err != nil && !w.Mount.Create {
		return fault.New(fault.NotFound, "mount point %s: %w", p.point, err).WithHint("mountpoint_create=true makes it")
	}
	return nil
}

func (w *work) mountPlaces(ctx context.Context, result ansible.Result, places []place) (ansible.Result, error) {
	var todo []place
	for _, p := range places {
		if m, ok := filesystem.At(w.view.Mounts, p.point); !ok || m.Dev != devOf(p.snapshot) {
			todo = append(todo, p)
		}
	}
	result.Data["snapshots"] = w.listMounted(places)
	if len(todo) == 0 {
		return result, nil
	}
	result.Changed = true
	result.Msg = fmt.Sprintf("%s; %s it on %s", result.Msg, w.verb("mounted", "mount"), points(todo))
	if w.Check {
		return result, nil
	}
	undo := &Plan{Set: w.Set, Mounted: targetsOf(todo)}
	if err := w.trip.Begin(Kind, w.Set, w.set.Groups(), "mounting", undo); err != nil {
		return result, err
	}
	for _, p := range todo {
		if err := w.mountOne(ctx, p); err != nil {
			return result, w.failed(fault.All(err, undone(ctx, w.lvm, undo)))
		}
	}
	return result, w.trip.Finish(StepMounted, journal.Done, nil)
}

func (w *work) mountOne(ctx context.Context, p place) error {
	if err := os.MkdirAll(p.point, 0o755); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", p.point, err)
	}
	var more []string
	for i := range w.targets {
		if t := &w.targets[i]; t.LV.VG == p.snapshot.VG && t.LV.Name == p.snapshot.Origin {
			more = w.snapshotOptions(t)
		}
	}
	origin := w.view.mountOf(p.snapshot.VG, p.snapshot.Origin)
	spec := filesystem.MountSpec{Source: p.snapshot.Path, Point: p.point, Type: origin.Type}
	if spec.Type == "" {
		fstype, err := filesystem.TypeOf(ctx, w.commands, p.snapshot.Path)
		if err != nil {
			return err
		}
		spec.Type = fstype
	}
	spec.Options = mergeOptions(append(filesystem.SnapshotOptions(spec.Type, origin, false), more...), p.options)
	return filesystem.MountDevice(ctx, w.commands, spec)
}

// mergeOptions adds what the user says to the defaults; rw takes the place of ro, any *atime that of noatime.
func mergeOptions(defaults []string, user string) []string {
	var asked []string
	for _, o := range strings.Split(user, ",") {
		if o = strings.TrimSpace(o); o != "" {
			asked = append(asked, o)
		}
	}
	out := slices.DeleteFunc(slices.Clone(defaults), func(o string) bool {
		if o == "ro" {
			return slices.Contains(asked, "rw")
		}
		if o == "noatime" {
			return slices.ContainsFunc(asked, func(a string) bool { return strings.HasSuffix(a, "atime") })
		}
		return slices.Contains(asked, o)
	})
	return append(out, asked...)
}

// unmounted unmounts the set wherever it is mounted.
func (w *work) unmounted(ctx context.Context) (ansible.Result, error) {
	if w.set == nil {
		return ansible.Result{}, fault.New(fault.NotFound, "%s", None(w.view.Report, w.Set)).
			WithHint("lvm_snapshot_info shows the sets")
	}
	if err := w.same(); err != nil {
		return ansible.Result{}, err
	}
	points := w.mountedOn()
	if len(points) == 0 {
		return describe(w.set, false, fmt.Sprintf("set %s is not mounted", w.Set)), nil
	}
	result := describe(w.set, true, fmt.Sprintf("%s set %s from %s", w.verb("unmounted", "unmount"), w.Set, strings.Join(points, ", ")))
	if err := w.notInUse(ctx); err != nil || w.Check {
		return result, err
	}
	return result, unmountTargets(ctx, w.mountsOf())
}

// mountedOn is where the set's snapshots are mounted, whoever did it.
func (w *work) mountedOn() []string {
	var points []string
	for _, m := range w.mountsOf() {
		points = append(points, m.Point)
	}
	return points
}

// mountsOf are all mounts of the set's snapshots.
func (w *work) mountsOf() []filesystem.Target {
	var out []filesystem.Target
	for _, v := range w.set.Snapshots {
		for _, m := range filesystem.On(w.view.Mounts, devOf(v)) {
			out = append(out, filesystem.Target{Point: m.Point, Dev: m.Dev})
		}
	}
	return out
}

// unmountTargets unmounts what is still mounted of them, the last one first, for the settling of an interrupted mount or
// removal. What else has come to their mount points is not touched.
func unmountTargets(ctx context.Context, targets []filesystem.Target) error {
	var errs []error
	for _, t := range slices.Backward(targets) {
		errs = append(errs, filesystem.UnmountOf(ctx, t.Point, t.Dev))
		Tidy([]string{t.Point})
	}
	return fault.All(errs...)
}

// targetsOf are the mounts that are to be made.
func targetsOf(places []place) []filesystem.Target {
	var out []filesystem.Target
	for _, p := range places {
		out = append(out, filesystem.Target{Point: p.point, Dev: devOf(p.snapshot)})
	}
	return out
}

// Tidy removes those of the points that are our own mount points, with the directories above them that are empty now.
// Those the user named stay.
func Tidy(points []string) {
	for _, point := range points {
		for strings.HasPrefix(point, MountDir+"/") && os.Remove(point) == nil {
			point = filepath.Dir(point)
		}
	}
}

func (w *work) listMounted(places []place) []Taken {
	out := list(w.set)
	for i := range out {
		for _, p := range places {
			if p.snapshot.FullName() == out[i].Snapshot {
				out[i].Mountpoint = p.point
			}
		}
	}
	return out
}

func pointList(places []place) []string {
	var out []string
	for _, p := range places {
		out = append(out, p.point)
	}
	return out
}

func points(places []place) string { return strings.Join(pointList(places), ", ") }
