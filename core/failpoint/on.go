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

// process counts for Hit, which has no receiver because it is called from
// everywhere and is nothing in a release.
var process = places{
	armed:   "/run/rewind/failpoint",
	console: "/dev/console",
	cgroups: "/sys/fs/cgroup",
	own:     "/proc/self/cgroup",
	signal:  func() error { return unix.Kill(os.Getpid(), unix.SIGKILL) },
}

// Hit marks a place, and acts there if it is armed. A file that cannot be
// understood panics: a test that arms nothing would prove nothing.
func Hit(name string) {
	if err := process.hit(name); err != nil {
		panic(fmt.Sprintf("failpoint %s: %v", name, err))
	}
}

type places struct {
	armed, console, cgroups, own string
	signal                       func() error

	mu   sync.Mutex
	hits map[string]int
}

func (p *places) hit(name string) error {
	n := p.count(name)
	line, err := os.ReadFile(p.armed)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	at, nth, action, err := parse(string(line))
	if err != nil || at != name || nth != n {
		return err
	}
	return p.act(name, action)
}

func (p *places) count(name string) int {
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
	name, count, counted := strings.Cut(words[0], "#")
	if !counted {
		return name, 1, words[1], nil
	}
	nth, err = strconv.Atoi(count)
	if err != nil || nth < 1 {
		return "", 0, "", fmt.Errorf("%q is no number of times", count)
	}
	return name, nth, words[1], nil
}

func (p *places) act(name, action string) error {
	switch action {
	case "hang":
		return p.hang(name)
	case "kill":
		return p.die(name, p.signal)
	case "groupkill":
		return p.die(name, p.killGroup)
	}
	return fmt.Errorf("unknown action %q", action)
}

// die disarms the place, says so and kills. It returns only if that failed.
func (p *places) die(name string, kill func() error) error {
	if err := os.Remove(p.armed); err != nil {
		return err
	}
	if err := p.report(name); err != nil {
		return err
	}
	if err := kill(); err != nil {
		return err
	}
	select {} // the signal is on its way
}

// killGroup uses cgroup.kill (Linux 5.14, cgroups(7)): no process of the group
// lives to see the others die. The root group has no such file.
func (p *places) killGroup() error {
	data, err := os.ReadFile(p.own)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		if path, v2 := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); v2 {
			file := filepath.Join(p.cgroups, string(path), "cgroup.kill")
			return os.WriteFile(file, []byte("1"), 0)
		}
	}
	return fmt.Errorf("%s names no cgroup v2", p.own)
}

// hang waits for the removal of the file. It watches before it looks, so that a
// removal in between is not missed.
func (p *places) hang(name string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(p.armed), unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		return err
	}
	if err := p.report(name); err != nil {
		return err
	}
	events := make([]byte, 4096)
	for {
		if _, err := os.Stat(p.armed); os.IsNotExist(err) {
			return nil
		}
		if _, err := unix.Read(fd, events); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// report says that the place was reached. A missing console is no error:
// containers and tests have none.
func (p *places) report(name string) error {
	if console, err := os.OpenFile(p.console, os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		fmt.Fprintf(console, "\nrewind failpoint reached: %s\n", name)
		console.Close()
	}
	reached := p.armed + ".reached"
	if err := os.WriteFile(reached+".new", []byte(name+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(reached+".new", reached) // a reader never sees half a name
}
