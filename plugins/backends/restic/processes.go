package restic

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/proc"
)

// A restic that is killed leaves its lock in the repository. The lock has the host's name and a process id, which say
// little: another machine or container may have the same name, and another process the same id. So each restic that may
// lock the repository is noted on this host while it runs.

// noted is a restic that this host has started.
type noted struct {
	PID        int       `json:"pid"`
	StartTicks uint64    `json:"start_ticks"` // see proc.Stat
	BootID     string    `json:"boot_id"`
	Machine    string    `json:"machine"` // a copy of a virtual machine has its notes, but not its restic
	Started    time.Time `json:"started"`
	path       string    // of the note's file
}

// noteClock is how much later the note may be written than the process has locked the repository, by a clock that is
// set meanwhile.
const noteClock = time.Minute

// locked reports whether the process has made the lock. host is the name of this host.
func (n noted) locked(l repositoryLock, host string) bool {
	return l.Hostname == host && l.PID == n.PID && !l.Time.Before(n.Started.Add(-noteClock))
}

// isRunning reports whether the process has not ended.
func (n noted) isRunning() bool {
	s, found := proc.Find(n.PID)
	return n.BootID == bootID() && found && s.IsAlive() && s.StartTicks == n.StartTicks
}

// bootID returns the kernel's id of the current boot (random(4)).
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without one, no note is of this boot
	return strings.TrimSpace(string(id))
}

func (dir notes) processes() string { return filepath.Join(string(dir), "processes") }

// notingProcesses notes each restic that may lock the repository from its start to its end.
type notingProcesses struct {
	command.Streamer
	dir notes
}

func (p notingProcesses) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	end := p.dir.noteProcess(&c)
	out, err := p.Streamer.Run(ctx, c)
	end(err)
	return out, err
}

func (p notingProcesses) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	end := p.dir.noteProcess(&c)
	out, err := p.Streamer.Stream(ctx, c, line)
	end(err)
	return out, err
}

// noteProcess has the command note its process. What it returns is called with the command's error: a restic that has
// succeeded has removed its lock, and its note is removed. If the note cannot be written, or the run is killed before,
// a lock that restic leaves behind stays until somebody removes it.
func (dir notes) noteProcess(c *command.Cmd) (end func(error)) {
	if slices.Contains(c.Argv, "--no-lock") {
		return func(error) {}
	}
	path := ""
	c.Started = func(pid int) {
		s, found := proc.Find(pid)
		if !found {
			return
		}
		n := noted{PID: pid, StartTicks: s.StartTicks, BootID: bootID(), Machine: backup.ThisMachine(),
			Started: time.Now().UTC()}
		data, err := json.Marshal(n)
		if err == nil && durable.MkdirAll(dir.processes(), 0o700) == nil {
			path = filepath.Join(dir.processes(), strconv.Itoa(pid)+"-"+strconv.FormatUint(s.StartTicks, 10)+".json")
			_ = durable.WriteFile(path, data, 0o600)
		}
	}
	return func(err error) {
		if err == nil && path != "" {
			_ = durable.Remove(path)
		}
	}
}

// endedProcesses returns the notes of processes of this machine that have ended.
func (dir notes) endedProcesses() []noted {
	paths, _ := filepath.Glob(filepath.Join(dir.processes(), "*.json"))
	var ended []noted
	for _, path := range paths {
		n := noted{path: path}
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &n) != nil {
			continue
		}
		if n.Machine == backup.ThisMachine() && !n.isRunning() {
			ended = append(ended, n)
		}
	}
	return ended
}
