package lvm

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// Version returns LVM's own version, such as 2.03.16(2). Faults: unsupported if LVM is not installed; command_failed.
func (l *LVM) Version(ctx context.Context) (string, error) {
	out, err := l.query(ctx, "lvm", "version")
	if err != nil {
		return "", explain(err)
	}
	for line := range strings.Lines(out.Stdout) {
		name, value, _ := strings.Cut(line, ":")
		words := strings.Fields(value) // the version and its date
		if strings.TrimSpace(name) == "LVM version" && len(words) > 0 {
			return words[0], nil
		}
	}
	return "", fault.New(fault.CommandFailed, "lvm version printed no version: %q", out.Stdout)
}
