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

// Fstab reads a file such as /etc/fstab; one that does not exist has no
// entries. Lines with fewer than two fields are passed over, as mount(8) does.
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
		fields = append(fields, []string{"auto", "defaults"}[min(len(fields)-2, 2):]...) // what mount(8) takes for absent ones
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

// unescape turns \040 and its like into what they stand for: fstab(5) and
// proc(5) write blanks so. Anything else after a backslash stays as it is.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, ok := octal(s[i:]); ok {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// octal reads a backslash and three octal digits, at most \377.
func octal(s string) (byte, bool) {
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

// splitOptions splits at commas, but not inside of quotes: SELinux contexts
// have commas of their own (mount(8)).
func splitOptions(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

// byContent are the folders of links that name a device by what is written on it.
var byContent = []string{"/dev/disk/by-uuid/", "/dev/disk/by-label/"}

// ByContent tells whether the entry names its device by an identifier that is
// written in the file system, which a snapshot therefore has as well.
func (e FstabEntry) ByContent() bool {
	key, _, tagged := strings.Cut(e.Spec, "=")
	if tagged && (key == "UUID" || key == "LABEL") {
		return true
	}
	return slices.ContainsFunc(byContent, func(dir string) bool { return strings.HasPrefix(e.Spec, dir) })
}

// FstabWarnings warns of each entry for one of the mount points that might
// mount a snapshot in place of the volume. device names the volume at a point,
// such as /dev/vg00/dat.
func FstabWarnings(entries []FstabEntry, device map[string]string) []string {
	var warnings []string
	for _, e := range entries {
		volume, ours := device[e.Point]
		if !ours || !e.ByContent() {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("/etc/fstab mounts %s by %s, which the volume's snapshots share: write %s there instead",
			e.Point, e.Spec, volume))
	}
	return warnings
}

// FstabPoints returns where the entries have a device mounted.
func FstabPoints(entries []FstabEntry, dev Dev) []string {
	var points []string
	for _, e := range entries {
		if is, ok := e.Device(); ok && is == dev && strings.HasPrefix(e.Point, "/") { // swap has none
			points = append(points, e.Point)
		}
	}
	return points
}

// Device returns the block device that the entry names now; false if there is none.
func (e FstabEntry) Device() (Dev, bool) {
	path := e.Spec
	if key, value, tagged := strings.Cut(e.Spec, "="); tagged && !strings.HasPrefix(e.Spec, "/") {
		path = "/dev/disk/by-" + strings.ToLower(key) + "/" + value
	}
	_, is, err := statDev(path)
	return is, err == nil && is != Dev{}
}
