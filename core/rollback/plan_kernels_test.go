package rollback

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/filesystem"
)

// A kernel in a /boot of its own stays, and its modules go back with the root file system.
func TestKernelsThatLoseTheirModulesAreNamed(t *testing.T) {
	root := t.TempDir()
	install := func(version string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, "lib/modules", version), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "boot/vmlinuz-"+version), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"boot", "lib/modules"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	system, boot := filesystem.Dev{Major: 253, Minor: 1}, filesystem.Dev{Major: 8, Minor: 1}
	usr := filesystem.Dev{Major: 253, Minor: 2}
	mounts := []filesystem.Mount{
		{ID: 1, Dev: system, Point: root}, {ID: 2, Parent: 1, Dev: boot, Point: filepath.Join(root, "boot")},
	}
	taken := time.Now()
	warning := func(mounts []filesystem.Mount, members ...filesystem.Dev) string {
		isMember := func(dev filesystem.Dev) bool { return slices.Contains(members, dev) }
		return strings.Join(kernelWarnings(root, mounts, isMember, taken), "\n")
	}
	if got := warning(mounts, system); !strings.Contains(got, "any kernel, installed") {
		t.Errorf("no kernel is found: %q", got)
	}
	install("6.1.0-1-amd64")
	time.Sleep(20 * time.Millisecond) // the times of files have the resolution of the kernel's ticks
	taken = time.Now()
	if got := warning(mounts, system); got != "" {
		t.Errorf("all kernels are older: %s", got)
	}
	time.Sleep(20 * time.Millisecond)
	install("6.1.0-2-amd64")
	if err := os.WriteFile(filepath.Join(root, "boot/vmlinuz-monolithic"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	newer := ": " + filepath.Join(root, "boot/vmlinuz-6.1.0-2-amd64") + ", installed"
	if got := warning(mounts, system); !strings.Contains(got, newer) {
		t.Errorf("a newer kernel: %q", got)
	}
	if got := warning(mounts, system, boot); got != "" {
		t.Errorf("/boot goes back, too: %s", got)
	}
	if got := warning(mounts[:1], system); got != "" {
		t.Errorf("/boot is a directory: %s", got)
	}
	if got := warning(mounts, usr); got != "" {
		t.Errorf("the modules stay: %s", got)
	}
	modules := filesystem.Mount{ID: 3, Parent: 1, Dev: usr, Point: filepath.Join(root, "lib")}
	if got := warning(append(mounts, modules), system); got != "" {
		t.Errorf("the modules are on another volume, and stay: %s", got)
	}
	install("6.1.0-1-amd64") // the same version again, with what a security update changed
	if got := warning(mounts, system); !strings.Contains(got, "1-amd64, ") {
		t.Errorf("a kernel that was updated: %q", got)
	}
}
