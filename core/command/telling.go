package command

import (
	"slices"
	"strings"
)

// idle are lines that do not say why a program failed, by the program: warnings, advice, and what follows from the
// failure. Each is known by how it begins. Of a program that is listed, the first line that is left is the cause. One
// that is not listed tells it in its last line. What restic and rsync say is read closer in their backends.
var idle = map[string][]string{
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

// telling returns the line that says why the program failed, without the program's own name before it.
func telling(program, stderr string) string {
	begins, listed := idle[program]
	last := ""
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		line = strings.TrimSpace(strings.TrimPrefix(line, program+": "))
		if listed && !slices.ContainsFunc(begins, func(s string) bool { return strings.HasPrefix(line, s) }) {
			return line
		}
	}
	return strings.TrimSpace(strings.TrimPrefix(last, program+": "))
}
