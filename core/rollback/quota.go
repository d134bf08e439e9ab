package rollback

import (
	"context"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
)

// findQuotas keeps which quotas the kernel enforces on the members' file systems.
func (rb *rollback) findQuotas() {
	rb.state.Quotas = map[string][]filesystem.QuotaType{}
	for _, spec := range rb.state.Mounts {
		if types := filesystem.Quotas(spec); len(types) > 0 {
			rb.state.Quotas[spec.Point] = types
		}
	}
}

// enforceQuotas has the kernel enforce the quotas again that it enforced before the unmount. A failure is a warning:
// the services can work without quotas.
func (rb *rollback) enforceQuotas(ctx context.Context) {
	for _, spec := range rb.state.Mounts {
		if err := filesystem.EnforceQuotas(ctx, rb.commands, spec, rb.state.Quotas[spec.Point]); err != nil {
			journey.LogError(err)
			rb.warnings = append(rb.warnings, err.Error())
		}
	}
}
