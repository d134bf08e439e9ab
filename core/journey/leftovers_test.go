package journey

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
)

// The files that tell the setups of control groups apart.
const (
	unifiedSetup = "cgroup.controllers"
	mixedSetup   = "unified/cgroup.controllers"
	oldSetup     = "systemd/cgroup.procs" // version 1 only
)

// useCgroups makes the package look for control groups in a temporary directory, which it returns.
func useCgroups(t *testing.T, setup string) (mount string) {
	t.Helper()
	original := cgroupMount
	t.Cleanup(func() { cgroupMount = original })
	cgroupMount = t.TempDir()
	writeFile(t, filepath.Join(cgroupMount, setup), "")
	return cgroupMount
}

// writeFile writes a file, and makes its directory.
func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// startIn starts a program with this name and these arguments, which runs until the test ends, and puts it into a
// control group.
func startIn(t *testing.T, group, name string, args ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	cmd := exec.Command(program, args...)
	stdin, pipeErr := cmd.StdinPipe()
	err := errors.Join(os.WriteFile(program, []byte("#!/bin/sh\nread line\n"), 0o700), pipeErr, cmd.Start())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	writeFile(t, filepath.Join(group, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)+"\n")
}

// isAwaited reports whether AwaitCommands for the entry with this id waits for something.
func isAwaited(t *testing.T, id string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := AwaitCommands(ctx, &journal.Entry{ID: id, Groups: []string{"vg00", "vg01"}})
	if err != nil && !errors.Is(err, fault.Timeout) {
		t.Error(err)
	}
	return err != nil
}

// Whoever settles a run waits for the commands that the run has left, and for those that an earlier attempt to settle
// it has left in its own unit.
func TestAwaitCommands(t *testing.T) {
	for name, c := range map[string]struct {
		unit, program string
		args          []string
		want          bool
	}{
		"of the run":                {"rewind-7.service", "lvm", []string{"lvconvert", "vg00/dat_s"}, true},
		"of a run with two entries": {"rewind-7.service", "umount", []string{"/dat"}, true},
		"of an attempt to settle":   {"rewind-8.service", "lvm", []string{"lvconvert", "--", "vg00/dat_s"}, true},
		"of one at boot":            {"rewind-resume.service", "lvm", []string{"vgcfgrestore", "--", "vg01"}, true},
		"on another group":          {"rewind-8.service", "lvm", []string{"lvcreate", "--", "vg001/dat"}, false},
		"of another run":            {"rewind-8.service", "mount", []string{"/dat"}, false},
		"not a change":              {"rewind-7.service", "gpg-agent", nil, false},
		"not of Rewind":             {"cron.service", "lvm", []string{"lvcreate", "--", "vg00/dat"}, false},
	} {
		mount := useCgroups(t, unifiedSetup)
		startIn(t, filepath.Join(mount, "system.slice", c.unit), c.program, c.args...)
		for _, id := range []string{"7", "7-2"} {
			if got := isAwaited(t, id); got != c.want {
				t.Errorf("%s, entry %s: waited for: %v", name, id, got)
			}
		}
	}
}

// Where the units' control groups are depends on how systemd was told to set them up. What cannot be read is not taken
// for a unit that has ended.
func TestControlGroupsOfEachSetup(t *testing.T) {
	const own = "/system.slice/rewind-7.service"
	for setup, c := range map[string]struct{ proc, hierarchy string }{
		unifiedSetup: {"0::" + own + "\n", ""},
		mixedSetup:   {"3:cpuset:/\n1:name=systemd:" + own + "\n0::" + own + "\n", "unified"},
		oldSetup:     {"3:cpuset:/\n1:name=systemd:" + own + "\n", "systemd"},
	} {
		mount := useCgroups(t, setup)
		group := filepath.Join(mount, c.hierarchy, own)
		if got := ownCgroupFrom(c.proc); got != group {
			t.Errorf("%s: own group %q", setup, got)
		}
		if isAwaited(t, "7") {
			t.Errorf("%s: waited for a unit that has ended", setup)
		}
		startIn(t, group, "lvm", "lvconvert")
		if !isAwaited(t, "7") {
			t.Errorf("%s: not waited for a command of the run", setup)
		}
	}
	if got := ownCgroupFrom("0::/user.slice\n"); got != "" {
		t.Errorf("started by hand: own group %q", got)
	}
	mount := useCgroups(t, unifiedSetup)
	writeFile(t, filepath.Join(mount, "system.slice/rewind-7.service/cgroup.procs/unreadable"), "")
	if err := AwaitCommands(t.Context(), &journal.Entry{ID: "7"}); err == nil {
		t.Error("a control group that cannot be read is taken for a unit that has ended")
	}
	cgroupMount = filepath.Join(t.TempDir(), "nothing")
	if err := AwaitCommands(t.Context(), &journal.Entry{ID: "7"}); err == nil {
		t.Error("missing control groups are taken for a unit that has ended")
	}
}
