package backup_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// probe returns the verdict on a directory, and fails the test if Probe leaves anything in it.
func probe(t *testing.T, dir string) ([]string, error) {
	t.Helper()
	lacks, err := backup.Probe(dir)
	if err != nil {
		t.Fatal(err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	return lacks.Verdict(dir)
}

func TestProbeOfLinuxFileSystemLacksNothing(t *testing.T) {
	if warnings, err := probe(t, t.TempDir()); len(warnings) > 0 || err != nil {
		t.Errorf("%q, %v", warnings, err)
	}
}

// ramfs holds no extended attributes, which only some trees have.
func TestLackingOptionalAbilityIsAWarning(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	warnings, err := probe(t, dir)
	want := "the file system that holds " + dir + " (ramfs) cannot hold extended attributes, ACLs, capabilities: "
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], want) {
		t.Errorf("%q, %v; want %q", warnings, err, want)
	}
	lacks, err := backup.Probe(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lacks.WithFakeSuper().Verdict(dir)
	if !errors.Is(err, fault.Unsupported) || !strings.HasSuffix(err.Error(), "cannot hold extended attributes") {
		t.Errorf("rsync's fake_super needs extended attributes: %v", err)
	}
}

// Where root cannot change the owner of a file, as on NFS with root_squash, on CIFS and on vfat, no backup can be kept
// as a tree.
func TestLackingEssentialAbilityIsUnsupported(t *testing.T) {
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that this thread without CAP_CHOWN ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			done <- err
			return
		}
		data[0].Effective &^= 1 << unix.CAP_CHOWN
		if err := unix.Capset(&header, &data[0]); err != nil {
			done <- err
			return
		}
		lacks, err := backup.Probe(dir)
		if err == nil {
			_, err = lacks.Verdict(dir)
		}
		done <- err
	}()
	err := <-done
	if f := fault.Of(err); f == nil || f.Code != fault.Unsupported || !strings.HasSuffix(f.Msg, "cannot hold owners") {
		t.Errorf("got %v", err)
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestProbeOfFullFileSystemReturnsENOSPC(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	if err := os.WriteFile(dir+"/file", make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if lacks, err := backup.Probe(dir); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, %v", lacks, err)
	}
}
