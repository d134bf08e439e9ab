package restic

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
)

// resticWithLocks plays a restic whose repository has locks, and notes whether it is told to remove the stale ones.
type resticWithLocks struct {
	locks    []repositoryLock
	unlocked bool
}

func (r *resticWithLocks) Stream(_ context.Context, c command.Cmd, _ func(string)) (command.Output, error) {
	r.unlocked = r.unlocked || slices.Contains(c.Argv, "unlock")
	return command.Output{}, nil
}

func (r *resticWithLocks) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "list") {
		var ids string
		for i := range r.locks {
			ids += strconv.Itoa(i) + "\n"
		}
		return command.Output{Stdout: ids}, nil
	}
	i, err := strconv.Atoi(c.Argv[len(c.Argv)-1]) // restic cat lock ID
	if err != nil {
		return command.Output{}, err
	}
	text, err := json.Marshal(r.locks[i])
	return command.Output{Stdout: string(text)}, err
}

// SetClockSynchronized says for the test whether this host's clock is known to be right.
func SetClockSynchronized(t *testing.T, synchronized bool) {
	before := isClockSynchronized
	t.Cleanup(func() { isClockSynchronized = before })
	isClockSynchronized = func() bool { return synchronized }
}

// noteRestic notes a restic with that process id as if this host had started it an hour ago. It has ended, because no
// process was started at that time.
func noteRestic(t *testing.T, dir notes, pid int) {
	t.Helper()
	n := noted{PID: pid, StartTicks: 1, BootID: bootID(), Machine: backup.ThisMachine()}
	n.Started = time.Now().Add(-time.Hour)
	data, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(dir.processes(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir.processes(), strconv.Itoa(pid)+"-1.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startAs starts a process that has this name and lasts until the test ends.
func startAs(t *testing.T, name string) (pid int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nread line\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	_, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// `restic unlock` may remove no lock of a restic that is at work: not that of a machine with the same name, and, if the
// clock ran ahead, not that of another host. It sends SIGHUP to the processes of the locks with this host's name.
func TestUnlockEndangersNoOther(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const noProcess, alsoNone = 1 << 30, 1<<30 + 1
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	lockOf := func(host string, pid int, age time.Duration) repositoryLock {
		return repositoryLock{Time: ago(age), Hostname: host, PID: pid}
	}
	own := lockOf(host, noProcess, time.Minute)
	restic, bystander := startAs(t, "restic"), startAs(t, "nginx")
	const another = "another-host"
	gone := []int{noProcess}
	all := func(locks ...repositoryLock) []repositoryLock { return locks }
	for name, c := range map[string]struct {
		noted        []int
		locks        []repositoryLock
		synchronized bool
		want         bool
	}{
		"nothing noted":                   {nil, all(own), true, false},
		"no lock":                         {gone, nil, true, false},
		"its lock":                        {gone, all(own), false, true},
		"the lock of an earlier process":  {gone, all(lockOf(host, noProcess, 2*time.Hour)), true, false},
		"one of a machine of its name":    {gone, all(own, lockOf(host, alsoNone, 0)), true, false},
		"its id is another process's now": {[]int{bystander}, all(lockOf(host, bystander, 0)), true, false},
		"another restic is at work here":  {gone, all(own, lockOf(host, restic, 0)), true, true},
		"a bystander has the id of one":   {gone, all(own, lockOf(host, bystander, 0)), true, false},
		"a fresh one of another host":     {gone, all(own, lockOf(another, noProcess, 0)), false, true},
		"an old one of another host":      {gone, all(own, lockOf(another, alsoNone, time.Hour)), false, false},
		"and the clock is right":          {gone, all(own, lockOf(another, alsoNone, time.Hour)), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := notesDir
			t.Cleanup(func() { notesDir = before })
			notesDir = t.TempDir()
			SetClockSynchronized(t, c.synchronized)
			r := &resticWithLocks{locks: c.locks}
			tl := &tool{Streamer: r}
			for _, pid := range c.noted {
				noteRestic(t, tl.notes(), pid)
			}
			if err := tl.settleLocks(t.Context()); err != nil || r.unlocked != c.want {
				t.Errorf("unlocked: %v, want %v; %v", r.unlocked, c.want, err)
			}
			if left := len(tl.notes().endedProcesses()); c.want && left > 0 {
				t.Errorf("%d notes are left", left)
			}
		})
	}
}

// A copy of a virtual machine has the note of the restic that is at work on the other one, which has the same name.
func TestNoteOfAnotherMachineIsNotRead(t *testing.T) {
	before := notesDir
	t.Cleanup(func() { notesDir = before })
	notesDir = t.TempDir()
	dir := (&tool{}).notes()
	noteRestic(t, dir, 1<<30)
	paths, err := filepath.Glob(filepath.Join(dir.processes(), "*.json"))
	if err != nil || len(paths) != 1 || len(dir.endedProcesses()) != 1 {
		t.Fatalf("%v, %v, %v", paths, err, dir.endedProcesses())
	}
	data, err := os.ReadFile(paths[0])
	if err == nil {
		text := strings.Replace(string(data), backup.ThisMachine(), "another", 1)
		err = os.WriteFile(paths[0], []byte(text), 0o600)
	}
	if ended := dir.endedProcesses(); err != nil || len(ended) > 0 {
		t.Errorf("%v, %v", ended, err)
	}
}

// A restic is noted while it runs, and its note is removed unless it was killed, as the kernel's OOM killer does.
func TestResticIsNotedWhileItRuns(t *testing.T) {
	before := notesDir
	t.Cleanup(func() { notesDir = before })
	notesDir = t.TempDir()
	dir := (&tool{}).notes()
	run := func(script string) error {
		_, err := notingProcesses{command.Local{}, dir}.Run(t.Context(), command.Cmd{Argv: []string{"sh", "-c", script}})
		return err
	}
	count := "ls " + dir.processes() + " | grep -c '^'$$-.*json"
	if err := run("until test -d " + dir.processes() + "; do :; done; until " + count + "; do :; done"); err != nil {
		t.Fatal(err)
	}
	if left := dir.endedProcesses(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := run("until " + count + "; do :; done; kill -9 $$"); err == nil {
		t.Fatal("it was not killed")
	}
	if left := dir.endedProcesses(); len(left) != 1 {
		t.Errorf("after the kill: %v", left)
	}
}

// NoteProcess notes a process as a restic that this host has started for the repository.
func NoteProcess(t *testing.T, repository string, pid int) {
	t.Helper()
	var c command.Cmd
	(&tool{options: options{Repository: repository}}).notes().noteProcess(&c)
	c.Started(pid)
}
