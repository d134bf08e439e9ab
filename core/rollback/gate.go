package rollback

import (
	"context"
	"errors"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// protect makes members read-only to whoever opens or mounts them from now on. LVM looks whether a volume is closed,
// and merges some moments later: what is mounted in between has read what is rolled back under it, and would write that
// over what was rolled back.
func (w *walk) protect(ctx context.Context, members []*Member) error {
	devs, err := w.volumesOf(ctx, members)
	if err != nil {
		return err
	}
	for _, dev := range devs {
		if err := w.writeProtect(dev, true); err != nil {
			return err
		}
	}
	return nil
}

// unprotect lets the members be written to again, after it has unmounted what was mounted meanwhile. Of members that
// are not protected nothing is unmounted: they were mounted since, by an earlier run.
func (w *walk) unprotect(ctx context.Context) error {
	devs, err := w.volumesOf(ctx, w.state.Members)
	if err != nil {
		return err
	}
	var protected []filesystem.Dev
	for _, dev := range devs {
		is, err := w.protected(dev)
		if err != nil && !errors.Is(err, fault.NotFound) { // LVM makes the device of a thin volume anew
			return err
		}
		if is {
			protected = append(protected, dev)
		}
	}
	if len(protected) == 0 {
		return nil
	}
	// On the way back, what is mounted has read nothing that is not so any more.
	if err := w.unmountAgain(ctx); err != nil && w.entry().Step != stepUndoing {
		return err
	}
	for _, dev := range protected {
		if err := w.writeProtect(dev, false); err != nil {
			return err
		}
	}
	return w.unmountAgain(ctx) // read-only, too, if it came before the last line
}

// unmountAgain unmounts what was mounted since all was unmounted.
func (w *walk) unmountAgain(ctx context.Context) error {
	since, err := w.takeIn(ctx)
	if err != nil {
		return err
	}
	late := points(since)
	for i := range w.state.Mounts {
		if spec := &w.state.Mounts[i]; slices.Contains(late, spec.Point) {
			spec.Options[0] = w.access(spec.Source, late) // it is read-only because of protect
			w.warnings = append(w.warnings,
				spec.Point+" was mounted while the rollback was under way: it was unmounted, and is mounted again")
		}
	}
	return w.unmountAll(ctx, slices.Concat(w.state.Mounts, w.state.SetMounts))
}

// volumesOf are the devices of the members that could be written to before the rollback.
func (w *walk) volumesOf(ctx context.Context, members []*Member) ([]filesystem.Dev, error) {
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return nil, err
	}
	var devs []filesystem.Dev
	for _, m := range members {
		if i, ok := info[m.DMName]; ok && !m.ReadOnly {
			devs = append(devs, filesystem.Dev{Major: uint32(i.Major), Minor: uint32(i.Minor)})
		}
	}
	return devs, nil
}

// access is "rw" or "ro", as the others of the device's mounts have it: the kernel mounts all of them alike.
func (w *walk) access(source string, late []string) string {
	for _, spec := range w.state.Mounts {
		if spec.Source == source && spec.Bind == "" && !slices.Contains(late, spec.Point) {
			return spec.Options[0]
		}
	}
	return "rw"
}
