//go:build lab

package filesystem

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A real program makes each kind of holder, and the scan must find it.
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
			return os.Getpid(), at("ld.so") // this scan does not leave the test's own process out
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
	s := newScan([]Dev{m.Dev}, []Mount{m}, mounts)
	s.self = self
	begun := time.Now()
	found, err := s.runWithin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v: %v", time.Since(begun), found)
	return found
}

// After a lazy unmount by another program, the name of an open file does not show where it is.
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

// Units with a mount namespace of their own that Holders does not name must not keep the device open. The kernel's open
// count decides.
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

// unitName makes part of a unit's name from a property.
func unitName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, s)
}
