package rollback

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// closeCrypts closes the LUKS mappings of members.
func (v *volumes) closeCrypts(ctx context.Context, members []*Member) error {
	var errs []error
	for _, m := range members {
		if m.Crypt != "" {
			errs = append(errs, filesystem.CloseCrypt(ctx, v.commands, m.Crypt))
		}
	}
	return fault.All(errs...)
}

// openCrypts opens the LUKS mappings of all members again.
func (v *volumes) openCrypts(ctx context.Context) error {
	var errs []error
	for _, m := range v.state.Members {
		if m.Crypt == "" {
			continue
		}
		err := filesystem.OpenCrypt(ctx, v.commands, m.Crypt, "/dev/"+m.origin(), m.CryptOptions)
		if err != nil && !errors.Is(err, fault.Exists) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}
