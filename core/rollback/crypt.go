package rollback

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// crypts proves that every encrypted member can be opened again without a person, before anything is closed. The key
// must fit the header in the snapshot, which is the one that will be there after the merge.
func (w *walk) crypts(ctx context.Context, f *found) error {
	var wrong []error
	for i := range f.targets {
		t, m := &f.targets[i], w.state.Members[i]
		m.Crypt = t.Crypt
		if t.Crypt == "" {
			continue
		}
		err := filesystem.ProveKey(ctx, w.commands, t.Crypt, f.sight.snapshots[i].Path)
		if err != nil {
			wrong = append(wrong, fault.New(fault.NoKey, "%s is encrypted (%s): %w", m.origin(), t.Crypt, err))
		}
	}
	return fault.All(wrong...)
}

// isOurCrypt says that a holder is the crypt device itself, which the rollback closes.
func (w *walk) isOurCrypt(f *found, h filesystem.Holder) bool {
	if h.Kind != "device" {
		return false
	}
	for i := range f.targets {
		if f.targets[i].Crypt != "" && h.Path == "/dev/mapper/"+f.targets[i].Crypt {
			return true
		}
	}
	return false
}

// closeCrypts closes the crypt devices of members that are open.
func (w *walk) closeCrypts(ctx context.Context, members []*Member) error {
	var errs []error
	for _, m := range members {
		if m.Crypt != "" {
			errs = append(errs, filesystem.CloseCrypt(ctx, w.commands, m.Crypt))
		}
	}
	return fault.All(errs...)
}

// openCrypts opens them again.
func (w *walk) openCrypts(ctx context.Context) error {
	var errs []error
	for _, m := range w.state.Members {
		if m.Crypt == "" {
			continue
		}
		err := filesystem.OpenCrypt(ctx, w.commands, m.Crypt, "/dev/"+m.origin())
		if err != nil && !errors.Is(err, fault.Exists) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}
