package rollback

import (
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// busyFault names what holds the volumes open, and what to do about it. transient are units among the holders that are
// not stopped because they could not be started again. It returns nil if there are no holders.
func busyFault(holders []filesystem.Holder, transient []string) error {
	if len(holders) == 0 {
		return nil
	}
	return fault.New(fault.Busy, "the volumes are held open by %s", filesystem.Describe(holders)).With("holders", holders).
		WithHint("%s", advice(holders, transient))
}

// advice returns the hint that says what to do about holders.
func advice(holders []filesystem.Holder, transient []string) string {
	var parts []string
	if hint, others := calledProgramAdvice(holders); hint != "" {
		if len(others) == 0 {
			return hint
		}
		parts, holders = append(parts, hint), others
	}
	logins, dirs := []string{}, []string{}
	for _, h := range holders {
		if h.How == "cwd" && strings.HasPrefix(h.Unit, "session-") {
			logins, dirs = append(logins, fmt.Sprintf("%s (pid %d)", h.Command, h.PID)), append(dirs, h.Path)
		}
	}
	if len(logins) > 0 {
		slices.Sort(dirs)
		parts = append(parts, fmt.Sprintf("have %s leave %s (cd /): services=auto does not end a login session",
			strings.Join(logins, ", "), strings.Join(slices.Compact(dirs), ", ")))
	}
	if len(transient) > 0 {
		parts = append(parts, fmt.Sprintf("stop %s yourself: made by systemd-run or the like, it could not be started again",
			strings.Join(transient, ", ")))
	}
	runs, named := 0, map[string]bool{}
	for _, h := range holders {
		if !isOfRun(h) {
			continue
		}
		runs++
		if !named[h.Unit] {
			parts = append(parts, fmt.Sprintf("wait for the end of %s, an earlier run, which may wait for the disk itself: "+
				"systemctl status %[1]s", h.Unit))
		}
		named[h.Unit] = true
	}
	kernelParts := kernelAdvice(holders)
	parts = append(parts, kernelParts...)
	if len(logins)+len(kernelParts)+runs == len(holders) {
		return strings.Join(parts, "; ")
	}
	parts = append(parts, "add the units to services, end the processes, or unmount; "+
		"holders=stop ends processes, services=auto finds the units")
	return strings.Join(parts, "; ")
}

// withOutliving adds to the hint of a busyFault what to do about those of its holders that outlive the stop of their
// units. If there are no others, it is all of the hint. busy may be nil.
func withOutliving(busy error, holders []filesystem.Holder, outliving []int) error {
	var left []string
	others := 0
	for _, h := range holders {
		if slices.Contains(outliving, h.PID) {
			left = append(left, fmt.Sprintf("%s (pid %d) of %s", h.Command, h.PID, h.Unit))
		} else {
			others++
		}
	}
	if len(left) == 0 {
		return busy
	}
	slices.Sort(left)
	f := fault.Of(busy)
	hint := "a stop of its unit leaves " + strings.Join(slices.Compact(left), ", ") + " running (KillMode=): " +
		"wait for its end, or holders=stop ends it; if the unit ends it all the same, name the unit in services"
	if others > 0 {
		hint += "; the others: " + f.Hint
	}
	return f.WithHint("%s", hint)
}

// kernelAdvice says for each device, file or socket that the kernel itself holds open how to make the kernel release
// it.
func kernelAdvice(holders []filesystem.Holder) []string {
	var parts []string
	for _, h := range holders {
		switch h.Kind {
		case "swap":
			parts = append(parts, "swapoff "+h.Path)
		case "loop":
			parts = append(parts, fmt.Sprintf("unmount what is on %s, then losetup -d %s", h.Path, h.Path))
		case "device":
			if h.How == "open" {
				parts = append(parts, fmt.Sprintf("no process has %s open, the kernel does, as for DRBD: end that", h.Path))
			}
		case "export":
			parts = append(parts,
				fmt.Sprintf("name nfs-server in services, or take the export away: exportfs -u CLIENT:%s", h.Path))
		case "target":
			parts = append(parts,
				fmt.Sprintf("no process holds %s, the kernel serves it as a disk (%s): end that", h.Path, h.How))
		case "socket":
			parts = append(parts, fmt.Sprintf("no process has the socket %s: it is being handed over; see ss -xp", h.Path))
		}
	}
	return parts
}
