package rollback

import (
	"context"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// activateInactive activates the members that have no device. LVM only records the merge of a thick snapshot of such a
// volume: the kernel begins it when somebody activates the volume. lvchange --refresh does nothing for it, and reports
// no error.
func (v *volumes) activateInactive(ctx context.Context) error {
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return err
	}
	return v.activate(ctx, withoutDevice(info, v.state.Members))
}

// activate activates members. Where lvm.conf forbids that, lvchange reports no error, and activate does (unsupported).
func (v *volumes) activate(ctx context.Context, members []*Member) error {
	if err := v.lvm.Activate(ctx, originNames(members)...); err != nil || len(members) == 0 {
		return err
	}
	info, err := v.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range withoutDevice(info, members) {
		errs = append(errs, fault.New(fault.Unsupported, "LVM did not activate %s, and reports no error; "+
			"a volume is merged while it is active", m.origin()).
			WithHint("lvmconfig activation/volume_list shows which volumes this server may activate; "+
				"lvchange -ay -v %s says why it does not", m.origin()))
	}
	return fault.All(errs...)
}

// withoutDevice returns the members whose origin is inactive.
func withoutDevice(info map[string]lvm.Info, members []*Member) []*Member {
	var inactive []*Member
	for _, m := range members {
		if _, active := info[m.DMName]; !active {
			inactive = append(inactive, m)
		}
	}
	return inactive
}
