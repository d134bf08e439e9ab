//go:build failpoints

package failpoint

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// process is the state for Hit. It is global because Hit is called from many packages and is empty in a release.
var process = failpoints{
	armedFile:  "/run/rewind/failpoint",
	console:    "/dev/console",
	cgroupRoot: "/sys/fs/cgroup",
	ownCgroup:  "/proc/self/cgroup",
	killSelf:   func() error { return unix.Kill(os.Getpid(), unix.SIGKILL) },
}

// Hit marks a failpoint, and takes the action there if it is armed. It panics if it cannot parse the file that arms a
// failpoint, because a test whose failpoint is not armed would prove nothing.
func Hit(name string) {
	if err := process.hit(name); err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", name, err))
	}
}

// failpoints counts how often the process has come to each failpoint. Tests have other paths and another killSelf.
type failpoints struct {
	armedFile  string
	console    string
	cgroupRoot string // where the cgroup v2 file system is mounted
	ownCgroup  string // the file that names the control group of this process
	killSelf   func() error

	mu   sync.Mutex
	hits map[string]int // by the name of the failpoint
}

// hit is Hit, with an error in place of the panic.
func (p *failpoints) hit(name string) error {
	n := p.count(name)
	line, err := os.ReadFile(p.armedFile)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	armedName, armedHit, action, err := parse(string(line))
	if err != nil || armedName != name || armedHit != n {
		return err
	}
	return p.act(name, action)
}

// count returns how often the process has come to this failpoint, this time included.
func (p *failpoints) count(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hits == nil {
		p.hits = make(map[string]int)
	}
	p.hits[name]++
	return p.hits[name]
}

// parse reads "NAME[#N] ACTION".
func parse(line string) (name string, nth int, action string, err error) {
	words := strings.Fields(line)
	if len(words) != 2 {
		return "", 0, "", fmt.Errorf("%q is not NAME[#N] ACTION", line)
	}
	name, count, hasCount := strings.Cut(words[0], "#")
	if !hasCount {
		return name, 1, words[1], nil
	}
	nth, err = strconv.Atoi(count)
	if err != nil || nth < 1 {
		return "", 0, "", fmt.Errorf("%q is not a positive number", count)
	}
	return name, nth, words[1], nil
}

// act takes the action at this failpoint.
func (p *failpoints) act(name, action string) error {
	switch action {
	case "hang":
		return p.hang(name)
	case "kill":
		return p.die(name, p.killSelf)
	case "groupkill":
		return p.die(name, p.killGroup)
	}
	return fmt.Errorf("unknown action %q", action)
}

// die disarms the failpoint, reports that it was reached, and calls kill. It returns only if one of these failed.
func (p *failpoints) die(name string, kill func() error) error {
	if err := os.Remove(p.armedFile); err != nil {
		return err
	}
	if err := p.report(name); err != nil {
		return err
	}
	if err := kill(); err != nil {
		return err
	}
	select {} // until the signal arrives
}

// killGroup kills all processes in the control group of this process, and itself, at the same time. It writes to
// cgroup.kill (Linux 5.14, cgroups(7)), so that no process can react to the death of another. The root control group
// has no such file.
func (p *failpoints) killGroup() error {
	data, err := os.ReadFile(p.ownCgroup)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		if path, isV2 := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); isV2 {
			file := filepath.Join(p.cgroupRoot, string(path), "cgroup.kill")
			return os.WriteFile(file, []byte("1"), 0)
		}
	}
	return fmt.Errorf("%s names no cgroup v2", p.ownCgroup)
}

// hang waits until the file that arms the failpoint is removed. It sets up the watch before it checks whether the file
// exists, so that it cannot miss the removal.
func (p *failpoints) hang(name string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(p.armedFile), unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		return err
	}
	if err := p.report(name); err != nil {
		return err
	}
	events := make([]byte, 4096)
	for {
		if _, err := os.Stat(p.armedFile); os.IsNotExist(err) {
			return nil
		}
		if _, err := unix.Read(fd, events); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// report writes the name of the failpoint to the console and to the file that ends in ".reached". A missing console is
// no error, because containers and tests have none.
func (p *failpoints) report(name string) error {
	if console, err := os.OpenFile(p.console, os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		fmt.Fprintf(console, "\nrewind failpoint reached: %s\n", name)
		console.Close()
	}
	reached := p.armedFile + ".reached"
	if err := os.WriteFile(reached+".new", []byte(name+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(reached+".new", reached) // so that a reader never sees a part of the name
}
