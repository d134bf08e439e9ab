package proc

import (
	"os"
	"path/filepath"
)

// CgroupMount is where control groups are mounted.
const CgroupMount = "/sys/fs/cgroup"

// UnifiedHierarchy returns the directory of the unified hierarchy of control groups: mount itself or, in a mixed setup
// (systemd.unified_cgroup_hierarchy=0), a directory below it. It returns an empty string if there is none.
func UnifiedHierarchy(mount string) string {
	for _, dir := range []string{mount, filepath.Join(mount, "unified")} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
			return dir
		}
	}
	return ""
}
