//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// newFailpoints returns failpoints of which line arms one. An empty line arms none.
func newFailpoints(t *testing.T, line string) *failpoints {
	dir := t.TempDir()
	p := &failpoints{
		armedFile:  filepath.Join(dir, "failpoint"),
		console:    filepath.Join(dir, "console"),
		cgroupRoot: filepath.Join(dir, "cgroup"),
		ownCgroup:  filepath.Join(dir, "own"),
		killSelf:   func() error { t.Error("killed"); return nil },
	}
	if line != "" {
		write(t, p.armedFile, line)
	}
	return p
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestHitDoesNothingUnlessArmed(t *testing.T) {
	for _, line := range []string{"", "other kill\n", "here#2 kill\n"} {
		p := newFailpoints(t, line)
		if err := p.hit("here"); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestHitRefusesMalformedFile(t *testing.T) {
	for _, line := range []string{"here", "here explode", "here#0 kill", "here#x kill", "here kill now"} {
		p := newFailpoints(t, line)
		if err := p.hit("here"); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

// diesAtHit hits a failpoint in a new goroutine and checks that the goroutine ends at this hit. In these tests killSelf
// ends the goroutine, as SIGKILL would end the process.
func diesAtHit(t *testing.T, p *failpoints, want int) {
	t.Helper()
	done := make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; n < want; n++ {
			if err := p.hit("here"); err != nil {
				t.Error(err)
			}
		}
	}()
	if n := <-done; n != want-1 {
		t.Errorf("died at hit %d, want %d", n+1, want)
	}
}

func TestKillAtNthHit(t *testing.T) {
	p := newFailpoints(t, "here#3 kill\n")
	p.killSelf = func() error { runtime.Goexit(); return nil }
	diesAtHit(t, p, 3)
	if got := read(t, p.armedFile+".reached"); got != "here\n" {
		t.Errorf("the file .reached holds %q", got)
	}
	if _, err := os.Stat(p.armedFile); !os.IsNotExist(err) {
		t.Error("still armed: the process that cleans up would be killed too")
	}
}

func TestGroupKillWritesCgroupKill(t *testing.T) {
	p := newFailpoints(t, "here groupkill\n")
	write(t, p.ownCgroup, "1:name=x:/y\n0::/system.slice/a.service\n")
	file := filepath.Join(p.cgroupRoot, "system.slice/a.service/cgroup.kill")
	write(t, file, "")
	// On a real cgroup.kill the kernel kills this process before killGroup returns. This is an ordinary file.
	if err := p.killGroup(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, file); got != "1" {
		t.Errorf("cgroup.kill got %q", got)
	}
}

func TestHangLastsUntilDisarmed(t *testing.T) {
	p := newFailpoints(t, "here hang\n")
	console := p.console
	if err := unix.Mkfifo(console, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.hit("here") }()
	message := read(t, console) // blocks until the failpoint is reached
	if message != "\nrewind failpoint reached: here\n" {
		t.Errorf("on the console is %q", message)
	}
	select {
	case err := <-done:
		t.Fatalf("the hit returned while armed: %v", err)
	default:
	}
	if err := os.Remove(p.armedFile); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
