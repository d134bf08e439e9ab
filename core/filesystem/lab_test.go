//go:build lab

// These tests ask a real kernel, as root, on a machine that may be harmed:
//
//	CGO_ENABLED=0 go test -c -tags lab -o filesystem.test ./core/filesystem
//	REWIND_LAB_MOUNT=/dat ./filesystem.test -test.v -test.run Lab    # there
//
// /dat stands for a mounted file system of its own with an entry in fstab.
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
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// labMount returns the mount to be used, and fails without one.
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

// start starts a shell that says "ready" and then waits; it ends with the test.
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

// written returns a channel that closes when a file was written to the mount.
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

const still = 500 * time.Millisecond // a write that takes longer is held up

func blocked(done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(still):
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
	if !blocked(write) {
		t.Error("a write went through a frozen file system")
	}
	if _, err := Freeze(t.Context(), []Target{target}, time.Minute); !errors.Is(err, fault.Busy) {
		t.Errorf("a second freeze: %v, want busy", err)
	}
	if !blocked(write) {
		t.Error("the failed second freeze thawed the first")
	}
	if err := f.Thaw(m.Point); err != nil {
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
	<-written(t, m) // goes on by itself
	<-f.Expired()
	if err := f.ThawAll(); !errors.Is(err, fault.FreezeTimeout) {
		t.Errorf("after the limit: %v", err)
	}
}

// A directory below a mount point would freeze what holds it.
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

const frozenChild = "REWIND_LAB_FROZEN_CHILD"

// Not a test: the process that TestLabThawAfterSIGKILL kills.
func TestLabFrozenChild(t *testing.T) {
	if os.Getenv(frozenChild) == "" {
		return // it is started below only
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
	if !blocked(write) {
		t.Error("the freeze went away with its process: this test proves nothing")
	}
	for range 2 { // thawing what is not frozen is no error
		if err := ThawMount(Target{m.Point, m.Dev}); err != nil {
			t.Error(err)
		}
	}
	<-write
}

// Each way to hold a mount open, made by a real program and found by name.
func TestLabHolders(t *testing.T) {
	m := labMount(t)
	at := func(name string) string { return filepath.Join(m.Point, name) }
	shell := func(t *testing.T, script string) int { return start(t, script).Process.Pid }
	for _, c := range []struct {
		kind, how string
		hold      func(t *testing.T) (pid int, path string)
	}{
		{"process", "cwd", func(t *testing.T) (int, string) { return shell(t, "cd "+m.Point), m.Point }},
		{"process", "fd", func(t *testing.T) (int, string) { return shell(t, "exec 7>"+at("f")), at("f") }},
		{"process", "fd", func(t *testing.T) (int, string) {
			return shell(t, "exec 7>"+at("f")+"; rm "+at("f")), at("f") + " (deleted)"
		}},
		{"process", "device", func(t *testing.T) (int, string) {
			node, err := filepath.EvalSymlinks(m.Source)
			if err != nil {
				t.Fatal(err)
			}
			return shell(t, "exec 7<"+m.Source), node
		}},
		{"process", "exe", func(t *testing.T) (int, string) {
			run(t, "cp", "/bin/bash", at("bash"))
			t.Cleanup(func() { os.Remove(at("bash")) })
			return start(t, "true", at("bash"), "-c", `"$@"; true`, "x").Process.Pid, at("bash")
		}},
		{"process", "map", func(t *testing.T) (int, string) {
			loader, err := filepath.EvalSymlinks("/lib64/ld-linux-x86-64.so.2")
			if err != nil {
				t.Fatal(err)
			}
			run(t, "cp", loader, at("ld.so"))
			t.Cleanup(func() { os.Remove(at("ld.so")) })
			file, err := os.Open(at("ld.so"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			data, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Munmap(data) })
			return os.Getpid(), at("ld.so") // the scan is told not to pass this process over
		}},
		{"mount", "bind", func(t *testing.T) (int, string) {
			dir := t.TempDir()
			if err := os.MkdirAll(at("sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, "mount", "--bind", at("sub"), dir)
			t.Cleanup(func() { run(t, "umount", dir); os.Remove(at("sub")) })
			return 0, dir
		}},
		{"mount", "mount", func(t *testing.T) (int, string) {
			return start(t, "cd /", "unshare", "-m").Process.Pid, m.Point
		}},
		{"swap", "swap", func(t *testing.T) (int, string) {
			run(t, "dd", "if=/dev/zero", "of="+at("swap"), "bs=1M", "count=16", "status=none")
			run(t, "chmod", "600", at("swap"))
			run(t, "mkswap", "-q", at("swap"))
			run(t, "swapon", at("swap"))
			t.Cleanup(func() { run(t, "swapoff", at("swap")); os.Remove(at("swap")) })
			return 0, at("swap")
		}},
		{"loop", "loop", func(t *testing.T) (int, string) {
			run(t, "truncate", "-s", "16M", at("img"))
			loop := strings.TrimSpace(run(t, "losetup", "--show", "-f", at("img")))
			t.Cleanup(func() { run(t, "losetup", "-d", loop); os.Remove(at("img")) })
			return 0, loop
		}},
	} {
		t.Run(c.kind+"_"+c.how, func(t *testing.T) {
			pid, path := c.hold(t)
			found := labHolders(t, m, c.how == "map")
			ours := slices.ContainsFunc(found, func(h Holder) bool {
				return h.Kind == c.kind && h.How == c.how && h.Path == path && h.PID == pid && (pid == 0 || h.Command != "")
			})
			if !ours {
				t.Errorf("%s %s by pid %d is not among %v", c.how, path, pid, found)
			}
		})
	}
}

func labHolders(t *testing.T, m Mount, selfToo bool) []Holder {
	t.Helper()
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	self := os.Getpid()
	if selfToo {
		self = 1
	}
	s := &scan{proc: "/proc", sys: "/sys", self: self, devs: []Dev{m.Dev}, own: []Mount{m}, mounts: mounts, stat: statDev}
	begun := time.Now()
	found, err := s.within(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %v", time.Since(begun), found)
	return found
}

// A lazy unmount by somebody else leaves a name that says nothing.
func TestLabHolderBehindALazyUnmount(t *testing.T) {
	m := labMount(t)
	dir := t.TempDir()
	run(t, "mount", "--bind", m.Point, dir)
	child := start(t, "cd "+dir)
	run(t, "umount", "-l", dir)
	found := labHolders(t, m, false)
	if !slices.ContainsFunc(found, func(h Holder) bool { return h.PID == child.Process.Pid && h.How == "cwd" }) {
		t.Errorf("pid %d is not among %v", child.Process.Pid, found)
	}
}

// The kernel is the judge: what Holders passes over in a unit with a namespace
// of its own must not keep the device open.
func TestLabUnitsWithPrivateMounts(t *testing.T) {
	m := labMount(t)
	for _, c := range []struct {
		properties []string
		holds      bool
	}{
		{[]string{"PrivateTmp=yes"}, false},
		{[]string{"PrivateMounts=yes"}, false},
		{[]string{"ProtectSystem=strict"}, false},
		{[]string{"ProtectSystem=strict", "ReadWritePaths=" + m.Point}, false},
		{[]string{"MountFlags=shared", "PrivateMounts=yes"}, false},
		{[]string{"BindPaths=" + m.Point + ":/srv"}, true},
		{[]string{"TemporaryFileSystem=" + m.Point + "/x"}, true},
	} {
		t.Run(strings.Join(c.properties, ","), func(t *testing.T) {
			if err := os.MkdirAll(filepath.Join(m.Point, "x"), 0o755); err != nil {
				t.Fatal(err)
			}
			unit := "rewind-lab-" + unitName(c.properties[0])
			argv := []string{"systemd-run", "-q", "--unit=" + unit, "-p", "Type=exec"}
			for _, p := range c.properties {
				argv = append(argv, "-p", p)
			}
			run(t, append(argv, "sleep", "1000")...)
			t.Cleanup(func() { run(t, "systemctl", "stop", unit) })
			found := labHolders(t, m, false)
			named := slices.ContainsFunc(found, func(h Holder) bool { return h.Unit == unit+".service" && h.Kind == "mount" })
			if named != c.holds {
				t.Errorf("holders name it: %v, want %v: %v", named, c.holds, found)
			}
			others := len(found)
			if named {
				others--
			}
			if others > 0 {
				t.Fatalf("the mount is in use: %v", found)
			}
			if err := Unmount(m.Point); err != nil {
				t.Fatal(err)
			}
			open := strings.TrimSpace(run(t, "dmsetup", "info", "-c", "--noheadings", "-o", "open", m.Source))
			if (open != "0") != c.holds {
				t.Errorf("open count %s after the unmount, want held: %v", open, c.holds)
			}
			remount(t, m)
		})
	}
}

// unitName makes a unit's name of a property.
func unitName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, s)
}

// remount mounts what was unmounted, as it was.
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
