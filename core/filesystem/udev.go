package filesystem

import (
	"os"
	"path/filepath"
	"strings"
)

// Names returns all paths of a block device that are in udev's record of it: the links below /dev. udev is the
// directory of these records, /run/udev/data. It returns none if udev has no record of the device.
func Names(udev string, dev Dev) []string {
	data, _ := os.ReadFile(filepath.Join(udev, "b"+dev.String()))
	var names []string
	for line := range strings.Lines(string(data)) {
		if link, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "S:"); ok {
			names = append(names, "/dev/"+link)
		}
	}
	return names
}
