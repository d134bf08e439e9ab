//go:build lab

// These tests ask a real kernel, as root, on a machine that may be harmed:
//
//	CGO_ENABLED=0 go test -c -tags lab -o filesystem.test ./core/filesystem
//	REWIND_LAB_MOUNT=/dat ./filesystem.test -test.v -test.run Lab    # on that machine
//
// /dat stands for a mount point that has a file system of its own and an entry in fstab.
package filesystem

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// labMount returns the mount that the tests use. It fails the test if there is none.
func labMount(t *testing.T) Mount {
	t.Helper()
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	m, ok := At(mounts, os.Getenv("REWIND_LAB_MOUNT"))
	if !ok {
		t.Fatalf("REWIND_LAB_MOUNT=%q is no mount point", os.Getenv("REWIND_LAB_MOUNT"))
	}
	return m
}

// run runs a program and fails the test if the program fails.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// start starts a shell that runs script, prints "ready" and waits. The shell ends with the test.
func start(t *testing.T, script string, wrap ...string) *exec.Cmd {
	t.Helper()
	argv := append(wrap, "bash", "-c", script+"; echo ready; read -r")
	cmd := exec.Command(argv[0], argv[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd
		}
	}
	t.Fatalf("%v ended before it was ready", argv)
	return nil
}

// written writes a file on the mount in the background. It returns a channel that is closed when the file is written.
func written(t *testing.T, m Mount) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	file := filepath.Join(m.Point, "written-by-test")
	go func() {
		defer close(done)
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { <-done; _ = os.Remove(file) })
	return done
}

const writeLimit = 500 * time.Millisecond // a write that takes longer is blocked

func isBlocked(done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(writeLimit):
		return true
	}
}

func TestLabFreezeHoldsWritesUntilTheThaw(t *testing.T) {
	m := labMount(t)
	target := Target{m.Point, m.Dev}
	f, err := Freeze(t.Context(), []Target{target}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	write := written(t, m)
	if !isBlocked(write) {
		t.Error("a write went through a frozen file system")
	}
	if _, err := Freeze(t.Context(), []Target{target}, time.Minute); !errors.Is(err, fault.Busy) {
		t.Errorf("a second freeze: %v, want busy", err)
	}
	if !isBlocked(write) {
		t.Error("the failed second freeze thawed the first")
	}
	if err := f.Thaw(); err != nil {
		t.Error(err)
	}
	<-write
}

func TestLabFreezeEndsAtItsLimit(t *testing.T) {
	m := labMount(t)
	f, err := Freeze(t.Context(), []Target{{m.Point, m.Dev}}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	<-written(t, m) // the write is no longer blocked at the limit
	if err := f.Thaw(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("after the limit: %v", err)
	}
}

// FIFREEZE on a directory below a mount point would freeze the whole file system.
func TestLabDirectoryIsNotFrozen(t *testing.T) {
	m := labMount(t)
	dir, err := os.MkdirTemp(m.Point, "dir")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if _, err := Freeze(t.Context(), []Target{{dir, m.Dev}}, time.Minute); !errors.Is(err, fault.NotFound) {
		t.Errorf("got %v, want not_found", err)
	}
	<-written(t, m)
}

// Only the program that froze a file system may thaw it.
func TestLabAnotherProgramsFreezeIsKept(t *testing.T) {
	m := labMount(t)
	target := Target{m.Point, m.Dev}
	dir, err := openMountPoint(target)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := ioctl(dir, fiFreeze); err != nil {
		t.Fatal(err)
	}
	_, failed := Freeze(t.Context(), []Target{target}, time.Minute)
	thawed := ThawMount(target)
	if err := ioctl(dir, fiThaw); err != nil {
		t.Errorf("it was thawed: %v", err)
	}
	if !errors.Is(failed, fault.Busy) || !strings.Contains(failed.Error(),
		"another program holds "+m.Point+" frozen") || thawed != nil {
		t.Errorf("freeze: %v; thaw: %v", failed, thawed)
	}
}

const frozenChild = "REWIND_LAB_FROZEN_CHILD"

// TestLabFrozenChild is no test: it is the process that TestLabThawAfterSIGKILL kills.
func TestLabFrozenChild(t *testing.T) {
	if os.Getenv(frozenChild) == "" {
		return // only TestLabThawAfterSIGKILL starts it
	}
	m := labMount(t)
	if _, err := Freeze(context.Background(), []Target{{m.Point, m.Dev}}, time.Hour); err != nil {
		t.Fatal(err)
	}
	fmt.Println("frozen")
	select {}
}

func TestLabThawAfterSIGKILL(t *testing.T) {
	m := labMount(t)
	child := exec.Command("/proc/self/exe", "-test.run", "TestLabFrozenChild")
	child.Env = append(os.Environ(), frozenChild+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "frozen\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	write := written(t, m)
	if !isBlocked(write) {
		t.Error("the freeze went away with its process: this test proves nothing")
	}
	for range 2 { // thawing what is not frozen is no error
		if err := ThawMount(Target{m.Point, m.Dev}); err != nil {
			t.Error(err)
		}
	}
	<-write
}

// remount mounts a file system that was unmounted with its earlier options.
func remount(t *testing.T, m Mount) {
	t.Helper()
	fstab, err := Fstab("/etc/fstab")
	if err != nil {
		t.Fatal(err)
	}
	spec := MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: m.RestoreOptions(fstab)}
	if err := MountDevice(t.Context(), command.Local{}, spec); err != nil {
		t.Fatal(err)
	}
}

func TestLabUnmountAndMountAgain(t *testing.T) {
	m := labMount(t)
	child := start(t, "cd "+m.Point)
	if err := Unmount(m.Point); !errors.Is(err, fault.Busy) {
		t.Fatalf("unmount of a mount in use: %v, want busy", err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	for _, listed := range []bool{true, false} {
		if err := Unmount(m.Point); err != nil {
			t.Fatal(err)
		}
		var fstab []FstabEntry
		if listed {
			fstab, _ = Fstab("/etc/fstab")
		}
		spec := MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: m.RestoreOptions(fstab)}
		if err := MountDevice(t.Context(), command.Local{}, spec); err != nil {
			t.Fatal(err)
		}
		if again := labMount(t); again.Dev != m.Dev || again.Options != m.Options || again.Super != m.Super {
			t.Errorf("options %v (fstab %v):\nwas %+v\nis  %+v", spec.Options, listed, m, again)
		}
	}
	if err := Unmount(t.TempDir()); !errors.Is(err, fault.NotFound) {
		t.Errorf("unmount of a directory: %v, want not_found", err)
	}
}

func TestLabStack(t *testing.T) {
	m := labMount(t)
	stack, err := Stack("/sys", m.Dev)
	if err != nil {
		t.Fatal(err)
	}
	if stack[0].Kind != "lvm" || !strings.HasPrefix(stack[0].UUID, "LVM-") || "/dev/mapper/"+stack[0].Name != m.Source {
		t.Errorf("top of the stack: %+v, mounted is %s", stack[0], m.Source)
	}
	if bottom := stack[len(stack)-1]; bottom.Kind != "loop" && bottom.Kind != "disk" {
		t.Errorf("bottom of the stack: %+v", bottom)
	}
	t.Logf("%+v", stack)
	if name, yes := InContainer(); yes {
		t.Errorf("a virtual machine is taken for a container, %s", name)
	}
}

// TestLabMountWaitsForASuspendedDevice mounts while another program has the device suspended, as LVM suspends an origin
// while dmeventd extends one of its snapshots.
func TestLabMountWaitsForASuspendedDevice(t *testing.T) {
	m := labMount(t)
	spec := MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: []string{"rw"}}
	for name, mount := range map[string]func() error{
		"mount(2)": func() error { return MountAtOnce(t.Context(), spec) },
		"mount(8)": func() error { return MountDevice(t.Context(), command.Local{}, spec) },
	} {
		if err := Unmount(m.Point); err != nil {
			t.Fatal(err)
		}
		run(t, "dmsetup", "suspend", m.Source)
		done := make(chan error, 1)
		go func() { done <- mount() }()
		select {
		case err := <-done:
			t.Errorf("%s did not wait for the suspended device: %v", name, err)
		case <-time.After(2 * time.Second):
		}
		run(t, "dmsetup", "resume", m.Source)
		if err := <-done; err != nil {
			t.Errorf("%s once the device was resumed: %v", name, err)
		}
		labMount(t)
	}
}

// TestLabMountOfADeviceInUse mounts a device that another device uses, which is not waited for.
func TestLabMountOfADeviceInUse(t *testing.T) {
	m := labMount(t)
	if err := Unmount(m.Point); err != nil {
		t.Fatal(err)
	}
	size := strings.TrimSpace(run(t, "blockdev", "--getsz", m.Source))
	run(t, "dmsetup", "create", "rewind-inuse", "--table", "0 "+size+" linear "+m.Source+" 0")
	before := time.Now()
	err := MountDevice(t.Context(), command.Local{}, MountSpec{Source: m.Source, Point: m.Point, Type: m.Type})
	if f := fault.Of(err); !errors.Is(err, fault.MountFailed) || f.Hint != inUseHint {
		t.Errorf("mount of a device in use: %v, hint %q, want mount_failed with the hint %q", err, f.Hint, inUseHint)
	}
	if took := time.Since(before); took > suspendedLimit/2 {
		t.Errorf("the mount waited %s for a device that is not suspended", took)
	}
	run(t, "dmsetup", "remove", "rewind-inuse")
	run(t, "mount", m.Point)
}
