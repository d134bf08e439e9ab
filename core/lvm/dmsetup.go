package lvm

import (
	"fmt"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// noDevices is what dmsetup prints, without an error, on a host that has no device-mapper device.
const noDevices = "No devices found"

func parseStatus(stdout string) (map[string][]Target, error) {
	devices := map[string][]Target{}
	for line := range strings.Lines(stdout) {
		line = strings.TrimRight(line, " \n")
		if line == "" || line == noDevices {
			continue
		}
		// A name may contain colons, but libdm replaces spaces in names. The line of a device without a table has no target.
		name, targetText, ok := strings.Cut(line, ": ")
		if !ok {
			name, ok = strings.CutSuffix(line, ":")
		}
		if !ok || name == "" {
			return nil, unreadableLine("status", line)
		}
		target, err := parseTarget(targetText)
		if err != nil {
			return nil, unreadableLine("status", line)
		}
		if target == nil {
			devices[name] = devices[name][:0:0]
			continue
		}
		devices[name] = append(devices[name], *target)
	}
	return devices, nil
}

// parseTarget parses "start length type args". For an empty line, which a device without a table has, it returns nil.
func parseTarget(s string) (*Target, error) {
	words := strings.Fields(s)
	if len(words) == 0 {
		return nil, nil
	}
	if len(words) < 3 {
		return nil, fmt.Errorf("%d words", len(words))
	}
	start, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return nil, err
	}
	length, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil {
		return nil, err
	}
	return &Target{Start: start, Length: length, Type: words[2], Args: words[3:]}, nil
}

func parseInfo(stdout string) (map[string]Info, error) {
	devices := map[string]Info{}
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		if line == "" || line == noDevices {
			continue
		}
		words := strings.Split(line, "|")
		if len(words) != 6 || words[0] == "" {
			return nil, unreadableLine("info", line)
		}
		info := Info{UUID: words[1], Suspended: words[5] == "Suspended"}
		for i, field := range []*int{&info.Major, &info.Minor, &info.Open} {
			n, err := strconv.Atoi(words[2+i])
			if err != nil || n < 0 {
				return nil, unreadableLine("info", line)
			}
			*field = n
		}
		devices[words[0]] = info
	}
	return devices, nil
}

func unreadableLine(subcommand, line string) error {
	return fault.New(fault.CommandFailed, "dmsetup %s printed a line that cannot be read: %q", subcommand, line)
}
