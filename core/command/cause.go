package command

import (
	"slices"
	"strings"
)

// notCauses lists, for each program, how those lines of its stderr begin that do not say why it failed: warnings,
// advice, and consequences of the failure. For a program in the list, the first line that begins otherwise is the
// cause. For any other program, the last line is. The backends for restic and rsync interpret the output of these
// programs further.
var notCauses = map[string][]string{
	"lvm": {
		"WARNING:", "TEST MODE:", "PARTIAL MODE.", "Reading without shared ", "Skipping global lock:",
		"Configuration setting ", "Configuration section ", "File descriptor ", "Error reading device ",
		"Attempted to decrement suspended device counter ", "Device open_count ",
	},
	"dmsetup":    {"Command failed"},
	"cryptsetup": {"Command failed", "WARNING:"},
	"mount":      {"(hint) ", "the old version; use ", "dmesg(1) may have more information ", "WARNING:"},
	"blkid":      {},
	"rsync":      {"rsync error:", "rsync warning:", "Warning: "},
	"ssh":        {"Warning: "},
	"tar":        {"Removing leading ", "Exiting with failure status ", "Error is not recoverable:"},
}

// causeLine returns the line of stderr that says why the program failed, without the program's name at its start.
func causeLine(program, stderr string) string {
	prefixes, isListed := notCauses[program]
	last := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		line = strings.TrimSpace(strings.TrimPrefix(line, program+": "))
		if isListed && !slices.ContainsFunc(prefixes, func(s string) bool { return strings.HasPrefix(line, s) }) {
			return line
		}
	}
	return strings.TrimSpace(strings.TrimPrefix(last, program+": "))
}
