package filesystem

import (
	"context"
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// QuotaType is whose use of a file system a quota limits.
type QuotaType string

// The types of quotas.
const (
	UserQuota    QuotaType = "user"
	GroupQuota   QuotaType = "group"
	ProjectQuota QuotaType = "project"
)

// quotaTypes are all types, in the order of the kernel, with quotaon's option for each.
var quotaTypes = []struct {
	name   QuotaType
	option string
}{{UserQuota, "-u"}, {GroupQuota, "-g"}, {ProjectQuota, "-P"}}

// getQuotaState is the command Q_XGETQSTAT of quotactl(2) for user quotas. Its answer, a struct fs_quota_stat, has the
// flags of all types at the offset quotaFlags (linux/dqblk_xfs.h).
const (
	getQuotaState = ('X'<<8 + 5) << 8
	quotaFlags    = 2
)

// Quotas returns the types of quotas that the kernel enforces on the ext4 file system of a mount. The kernel enforces
// XFS's quotas as the mount's options say, so that there is nothing to be known of them beside these. It returns nil
// for other file systems, for a bind mount, and if the kernel does not answer.
func Quotas(spec MountSpec) []QuotaType {
	if spec.Type != "ext4" && spec.Type != "ext3" || spec.Bind != "" {
		return nil
	}
	device, err := unix.BytePtrFromString(spec.Source)
	if err != nil {
		return nil
	}
	var answer [256]byte // more than the struct
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, getQuotaState, uintptr(unsafe.Pointer(device)), 0,
		uintptr(unsafe.Pointer(&answer[0])), 0, 0)
	if errno != 0 { // such as ENOSYS: there are no quotas
		return nil
	}
	return enforcedQuotas(binary.NativeEndian.Uint16(answer[quotaFlags:]))
}

// enforcedQuotas decodes the flags of a struct fs_quota_stat: for each type one bit says that the use is counted, and
// the next one that it is limited.
func enforcedQuotas(flags uint16) []QuotaType {
	var enforced []QuotaType
	for i, t := range quotaTypes {
		if flags&(2<<(2*i)) != 0 {
			enforced = append(enforced, t.name)
		}
	}
	return enforced
}

// EnforceQuotas has the kernel enforce these types of quotas on the file system of a mount, except those that it
// enforces already. At boot, too, it is not the mount that does this, but quotaon(8). Fault: mount_failed.
func EnforceQuotas(ctx context.Context, r command.Runner, spec MountSpec, types []QuotaType) error {
	enforced := Quotas(spec)
	argv := []string{"quotaon"}
	for _, t := range quotaTypes {
		if slices.Contains(types, t.name) && !slices.Contains(enforced, t.name) {
			argv = append(argv, t.option)
		}
	}
	if len(argv) == 1 {
		return nil
	}
	argv = append(argv, "--", spec.Point)
	if _, err := r.Run(ctx, command.Cmd{Argv: argv, Changes: true}); err != nil {
		return fault.New(fault.MountFailed, "the quotas of %s are off: %w", spec.Point, err).
			WithHint("by hand: quotaon -v %s", spec.Point)
	}
	return nil
}
