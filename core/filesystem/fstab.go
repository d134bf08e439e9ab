package filesystem

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// FstabEntry is one line of /etc/fstab (fstab(5)), unescaped.
type FstabEntry struct {
	Spec    string   `json:"spec"` // /dev/vg00/dat, UUID=…, LABEL=…
	Point   string   `json:"point"`
	Type    string   `json:"type"`
	Options []string `json:"options"`
}

// Fstab reads a file in the format of /etc/fstab. It returns no entries if the file does not exist. Lines with fewer
// than two fields are skipped, as mount(8) does. Fault: internal if the file cannot be read.
func Fstab(path string) ([]FstabEntry, error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "read %s: %w", path, err)
	}
	return parseFstab(data), nil
}

func parseFstab(data []byte) []FstabEntry {
	var entries []FstabEntry
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		// Missing fields get the defaults of mount(8).
		fields = append(fields, []string{"auto", "defaults"}[min(len(fields)-2, 2):]...)
		entries = append(entries, FstabEntry{
			Spec: unquote(unescape(fields[0])), Point: unescape(fields[1]), Type: unescape(fields[2]),
			Options: splitOptions(unescape(fields[3])),
		})
	}
	return entries
}

// unquote removes the quotes of UUID="…", which fstab(5) allows.
func unquote(spec string) string {
	key, value, tagged := strings.Cut(spec, "=")
	if !tagged || len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return spec
	}
	return key + "=" + value[1:len(value)-1]
}

// unescape replaces \040 and other octal escapes by the characters they stand for: fstab(5) and proc(5) write blanks in
// this way. A backslash that is followed by anything else stays.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, ok := parseOctal(s[i:]); ok {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseOctal parses a backslash and three octal digits, up to \377, at the beginning of s.
func parseOctal(s string) (byte, bool) {
	if len(s) < 4 || s[0] != '\\' || s[1] > '3' {
		return 0, false
	}
	var c byte
	for _, digit := range []byte(s[1:4]) {
		if digit < '0' || digit > '7' {
			return 0, false
		}
		c = c<<3 | (digit - '0')
	}
	return c, true
}

// splitOptions splits at commas, but not inside quotes: SELinux contexts contain commas (mount(8)).
func splitOptions(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

// contentLinkDirs are the directories of links that name a device by an identifier in its file system.
var contentLinkDirs = []string{"/dev/disk/by-uuid/", "/dev/disk/by-label/"}

// ByContent reports whether the entry names its device by an identifier that is stored in the file system. A snapshot
// of the volume has the same identifier.
func (e FstabEntry) ByContent() bool {
	key, _, tagged := strings.Cut(e.Spec, "=")
	if tagged && (key == "UUID" || key == "LABEL") {
		return true
	}
	return slices.ContainsFunc(contentLinkDirs, func(dir string) bool { return strings.HasPrefix(e.Spec, dir) })
}

// FstabWarnings returns a warning for each entry that might mount a snapshot instead of the volume at one of the mount
// points. volumeAt maps each mount point to the path of its volume, such as /dev/vg00/dat.
func FstabWarnings(entries []FstabEntry, volumeAt map[string]string) []string {
	var warnings []string
	for _, e := range entries {
		volume, isVolume := volumeAt[e.Point]
		if !isVolume || !e.ByContent() {
			continue
		}
		warnings = append(warnings, fmt.Sprintf(
			"/etc/fstab mounts %s by %s, which the volume's snapshots share: write %s there instead",
			e.Point, e.Spec, volume))
	}
	return warnings
}

// FstabPoints returns the mount points at which the entries mount a device.
func FstabPoints(entries []FstabEntry, dev Dev) []string {
	var points []string
	for _, e := range entries {
		if entryDev, ok := e.Device(); ok && entryDev == dev && strings.HasPrefix(e.Point, "/") { // swap has no mount point
			points = append(points, e.Point)
		}
	}
	return points
}

// Device returns the block device that the entry's Spec stands for now. It returns false if there is no such device.
func (e FstabEntry) Device() (Dev, bool) {
	path := e.Spec
	if key, value, tagged := strings.Cut(e.Spec, "="); tagged && !strings.HasPrefix(e.Spec, "/") {
		path = "/dev/disk/by-" + strings.ToLower(key) + "/" + value
	}
	dev, err := BlockDevice(path)
	return dev, err == nil
}
