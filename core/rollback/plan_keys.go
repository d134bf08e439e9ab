package rollback

import (
	"context"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

// proveKeys proves that every encrypted member can be opened again unattended, before anything is closed (no_key). The
// key must fit the LUKS header in the snapshot, because that header is on the volume after the merge. proveKeys also
// keeps with which options each member is open, such as discard.
func (p *planner) proveKeys(ctx context.Context, f *findings) error {
	var errs []error
	for i := range f.targets {
		t, m := &f.targets[i], p.state.Members[i]
		m.Crypt = t.Crypt
		if t.Crypt == "" {
			continue
		}
		err := filesystem.ProveKey(ctx, p.commands, t.Crypt, f.selection.snapshots[i].Path)
		if err != nil {
			errs = append(errs, fault.New(fault.NoKey, "%s is encrypted (%s): %w", m.origin(), t.Crypt, err))
		}
		m.CryptOptions, err = p.lvm.CryptOptions(t.Crypt)
		errs = append(errs, err, checkKeyOutside(t, f))
	}
	return fault.All(errs...)
}

// checkKeyOutside refuses an encrypted member whose key file lies on another member: the member is opened before any
// file system is mounted, and the key may be another one after the rollback. The root file system stays mounted.
func checkKeyOutside(t *snapset.Target, f *findings) error {
	key, err := filesystem.KeyFile(t.Crypt)
	if err != nil {
		return nil // proveKeys has said it
	}
	mount, err := filesystem.Holding(f.selection.view.Mounts, key)
	if err != nil || mount.Point == "/" {
		return err
	}
	for i := range f.targets {
		if other := &f.targets[i]; other.FS == mount.Dev {
			return fault.New(fault.NoKey, "%s is encrypted (%s), and its key file %s lies on %s, which is rolled back, too",
				t.LV.FullName(), t.Crypt, key, other.LV.FullName()).
				WithHint("move the key to another volume (and change /etc/crypttab), or roll them back one after the other")
		}
	}
	return nil
}

// isMemberCrypt is true if a holder is the LUKS mapping of a member, which the rollback closes itself.
func (f *findings) isMemberCrypt(h filesystem.Holder) bool {
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
