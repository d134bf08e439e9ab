package snapset

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Host is what this server is able to do.
type Host struct {
	Usable    bool              `json:"usable"`             // sets can be taken and rolled back here
	Problems  []string          `json:"problems,omitempty"` // why not, or what is missing for some volumes
	Kernel    string            `json:"kernel"`             // its release
	Modules   map[string]string `json:"kernel_modules"`     // dm_snapshot, dm_thin_pool: loaded, builtin, loadable, missing
	LVM       string            `json:"lvm_version"`        // empty if it cannot be had
	Systemd   bool              `json:"systemd"`
	Container string            `json:"container,omitempty"`
}

// The kernel modules that snapshots need: of thick volumes, of thin ones.
const (
	thickModule = "dm_snapshot"
	thinModule  = "dm_thin_pool"
)

// host looks at the server below root, "/" for the real one. version is LVM's, noLVM why there is none.
func host(root, release, container, version string, noLVM error) Host {
	h := Host{
		Kernel: release, LVM: version, Container: container,
		Modules: map[string]string{
			thickModule: moduleState(root, release, thickModule),
			thinModule:  moduleState(root, release, thinModule),
		},
	}
	// As sd_booted(3) tests it.
	if info, err := os.Lstat(filepath.Join(root, "run/systemd/system")); err == nil {
		h.Systemd = info.IsDir()
	}
	h.judge(noLVM)
	return h
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fault.New(fault.Internal, "uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func (h *Host) judge(noLVM error) {
	h.Usable = true
	stop := func(why string) { h.Usable, h.Problems = false, append(h.Problems, why) }
	if h.Container != "" {
		stop("this is a container (" + h.Container + "): its volumes belong to its host")
	}
	if noLVM != nil {
		stop("LVM: " + noLVM.Error())
	}
	if !h.Systemd {
		stop("systemd does not run here; changes are made in units of systemd")
	}
	thick, thin := h.Modules[thickModule] != missing, h.Modules[thinModule] != missing
	switch {
	case !thick && !thin:
		stop("the kernel has neither " + thickModule + " nor " + thinModule + ": no snapshot can be taken")
	case !thick:
		h.Problems = append(h.Problems, "the kernel has no "+thickModule+": only thin volumes can be taken")
	case !thin:
		h.Problems = append(h.Problems, "the kernel has no "+thinModule+": thin volumes cannot be used")
	}
}

const missing = "missing"

// moduleState says where the kernel has a module: loaded, builtin, loadable when it is needed, or missing. It writes -
// as _ in /proc/modules and either in file names (modprobe(8)).
func moduleState(root, release, module string) string {
	if anyLine(filepath.Join(root, "proc/modules"), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return name == module
	}) {
		return "loaded"
	}
	listed := func(line string) bool {
		file, _, _ := strings.Cut(line, ":") // modules.dep has what it depends on behind a colon
		name, _, _ := strings.Cut(path.Base(file), ".")
		return strings.ReplaceAll(name, "-", "_") == module
	}
	dir := filepath.Join(root, "lib/modules", release)
	switch {
	case anyLine(filepath.Join(dir, "modules.builtin"), listed):
		return "builtin"
	case anyLine(filepath.Join(dir, "modules.dep"), listed):
		return "loadable"
	}
	return missing
}

// anyLine says whether a line of a file fits. A file that cannot be read has none.
func anyLine(file string, fits func(line string) bool) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fits(lines.Text()) {
			return true
		}
	}
	return false
}
