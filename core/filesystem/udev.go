package filesystem

import (
	"os"
	"path/filepath"
	"strings"
)

// Names returns every path that leads to a block device by udev's record of it: its links below /dev. udev is its
// directory of records, /run/udev/data. A device that udev does not know has none.
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
