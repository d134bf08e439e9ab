package rollback

import (
	"context"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
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
		errs = append(errs, err)
	}
	return fault.All(errs...)
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
