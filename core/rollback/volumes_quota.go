package rollback

import (
	"context"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
)

// findQuotas keeps which quotas the kernel enforces on the members' file systems.
func (v *volumes) findQuotas() {
	v.state.Quotas = map[string][]filesystem.QuotaType{}
	for _, spec := range v.state.Mounts {
		if types := filesystem.Quotas(spec); len(types) > 0 {
			v.state.Quotas[spec.Point] = types
		}
	}
}

// enforceQuotas has the kernel enforce the quotas again that it enforced before the unmount. A failure is a warning:
// the services can work without quotas.
func (v *volumes) enforceQuotas(ctx context.Context) {
	for _, spec := range v.state.Mounts {
		if err := filesystem.EnforceQuotas(ctx, v.commands, spec, v.state.Quotas[spec.Point]); err != nil {
			journey.LogError(err)
			v.warnings = append(v.warnings, err.Error())
		}
	}
}
