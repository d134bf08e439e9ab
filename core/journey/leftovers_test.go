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

// useSlice makes the package look for the control groups of units in a temporary directory. It returns a function that
// gives a unit there a process: a program with this name, which runs until the test ends and has these arguments.
func useSlice(t *testing.T) (start func(unit, name string, args ...string) *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	original := unitSlice
	t.Cleanup(func() { unitSlice = original })
	unitSlice = filepath.Join(dir, "system.slice")
	return func(unit, name string, args ...string) *exec.Cmd {
		program := filepath.Join(t.TempDir(), name)
		group := filepath.Join(unitSlice, unit)
		cmd := exec.Command(program, args...)
		stdin, pipeErr := cmd.StdinPipe()
		err := errors.Join(os.WriteFile(program, []byte("#!/bin/sh\nread line\n"), 0o700), pipeErr, cmd.Start(),
			os.MkdirAll(group, 0o700),
			os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
		return cmd
	}
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
		useSlice(t)(c.unit, c.program, c.args...)
		for _, id := range []string{"7", "7-2"} {
			if got := isAwaited(t, id); got != c.want {
				t.Errorf("%s, entry %s: waited for: %v", name, id, got)
			}
		}
	}
}
