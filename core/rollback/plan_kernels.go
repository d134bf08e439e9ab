package rollback

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/filesystem"
)

// warnOfKernels warns if the rollback takes modules of kernels back, and leaves the kernels.
func (p *planner) warnOfKernels(f *findings) {
	isMember := func(dev filesystem.Dev) bool {
		for i := range f.targets {
			if f.targets[i].FS == dev {
				return true
			}
		}
		return false
	}
	since := p.state.Taken
	if p.state.Restored != nil {
		since = p.state.Restored.Time
	}
	p.warnings = append(p.warnings, kernelWarnings("/", f.selection.view.Mounts, isMember, since)...)
}

// kernelWarnings returns a warning if the modules of the kernels of a system are on a member, the kernels are not, and
// one was installed or changed since a time, or none is found that could be looked at. root is the system's root
// directory.
func kernelWarnings(
	root string, mounts []filesystem.Mount, isMember func(filesystem.Dev) bool, since time.Time,
) []string {
	modulesDir, bootDir := filepath.Join(root, "lib/modules"), filepath.Join(root, "boot")
	modules, err := filesystem.Holding(mounts, modulesDir)
	if err != nil || !isMember(modules.Dev) {
		return nil
	}
	boot, err := filesystem.Holding(mounts, bootDir)
	if err != nil || isMember(boot.Dev) {
		return nil
	}
	kernels, _ := filepath.Glob(filepath.Join(bootDir, "vmlinu[xz]-*"))
	now := time.Now()
	newer := slices.DeleteFunc(slices.Clone(kernels), func(kernel string) bool {
		_, version, _ := strings.Cut(filepath.Base(kernel), "-")
		hasModules := changedBetween(filepath.Join(modulesDir, version), time.Time{}, now)
		return !hasModules || !changedBetween(kernel, since, now)
	})
	switch {
	case len(kernels) == 0:
		newer = []string{"any kernel"}
	case len(newer) == 0:
		return nil
	}
	return []string{"/boot stays as it is, on none of these volumes, and /lib/modules goes back: " +
		strings.Join(newer, ", ") + ", installed or changed since, may not find its modules after the rollback; " +
		"before you reboot make an older kernel the default, and install the newer one again afterwards"}
}
