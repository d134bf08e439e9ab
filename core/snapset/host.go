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

// Host says what this server is able to do.
type Host struct {
	Usable    bool              `json:"usable"`              // sets can be taken and rolled back here
	Problems  []string          `json:"problems,omitempty"`  // why not, or why some volumes cannot be used
	Kernel    string            `json:"kernel"`              // the kernel's release
	Modules   map[string]string `json:"kernel_modules"`      // see moduleState; by name: dm_snapshot, dm_thin_pool
	LVM       string            `json:"lvm_version"`         // empty if LVM does not say it
	Systemd   bool              `json:"systemd"`             // it runs here
	Container string            `json:"container,omitempty"` // the kind of container this is; empty: none
}

// The kernel modules that snapshots of thick and of thin volumes need.
const (
	thickModule = "dm_snapshot"
	thinModule  = "dm_thin_pool"
)

// inspectHost inspects the server whose root directory is root, "/" for the real one. version is LVM's, and noLVM the
// reason if there is none.
func inspectHost(root, release, container, version string, noLVM error) Host {
	host := Host{
		Kernel: release, LVM: version, Container: container,
		Modules: map[string]string{
			thickModule: moduleState(root, release, thickModule),
			thinModule:  moduleState(root, release, thinModule),
		},
	}
	// This is the test of sd_booted(3).
	if info, err := os.Lstat(filepath.Join(root, "run/systemd/system")); err == nil {
		host.Systemd = info.IsDir()
	}
	host.assess(noLVM)
	return host
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fault.New(fault.Internal, "uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// assess sets Usable and Problems. noLVM is the reason why LVM cannot be used; nil if it can.
func (h *Host) assess(noLVM error) {
	h.Usable = true
	unusable := func(why string) { h.Usable, h.Problems = false, append(h.Problems, why) }
	if h.Container != "" {
		unusable("this is a container (" + h.Container + "): its volumes belong to its host")
	}
	if noLVM != nil {
		unusable("LVM: " + noLVM.Error())
	}
	if !h.Systemd {
		unusable("systemd does not run here; changes are made in units of systemd")
	}
	thick, thin := h.Modules[thickModule] != moduleMissing, h.Modules[thinModule] != moduleMissing
	switch {
	case !thick && !thin:
		unusable("the kernel has neither " + thickModule + " nor " + thinModule + ": no snapshot can be taken")
	case !thick:
		h.Problems = append(h.Problems, "the kernel has no "+thickModule+": only thin volumes can be taken")
	case !thin:
		h.Problems = append(h.Problems, "the kernel has no "+thinModule+": thin volumes cannot be used")
	}
}

// moduleMissing is the state of a module that the kernel does not have.
const moduleMissing = "missing"

// moduleState says how the kernel has a module: loaded, builtin, loadable when it is needed, or missing. The kernel
// writes - as _ in /proc/modules, and either of them in file names (modprobe(8)).
func moduleState(root, release, module string) string {
	if hasLine(filepath.Join(root, "proc/modules"), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return name == module
	}) {
		return "loaded"
	}
	listed := func(line string) bool {
		file, _, _ := strings.Cut(line, ":") // in modules.dep, dependencies follow after a colon
		name, _, _ := strings.Cut(path.Base(file), ".")
		return strings.ReplaceAll(name, "-", "_") == module
	}
	dir := filepath.Join(root, "lib/modules", release)
	switch {
	case hasLine(filepath.Join(dir, "modules.builtin"), listed):
		return "builtin"
	case hasLine(filepath.Join(dir, "modules.dep"), listed):
		return "loadable"
	}
	return moduleMissing
}

// hasLine says whether any line of a file matches. A file that cannot be read has no lines.
func hasLine(file string, matches func(line string) bool) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if matches(lines.Text()) {
			return true
		}
	}
	return false
}
