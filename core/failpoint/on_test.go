//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func newPlaces(t *testing.T, line string) *places {
	dir := t.TempDir()
	p := &places{
		armed:   filepath.Join(dir, "failpoint"),
		console: filepath.Join(dir, "console"),
		cgroups: filepath.Join(dir, "cgroup"),
		own:     filepath.Join(dir, "own"),
		signal:  func() error { t.Error("killed"); return nil },
	}
	if line != "" {
		write(t, p.armed, line)
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

func TestHitPassesWhereNothingIsArmed(t *testing.T) {
	for _, line := range []string{"", "other kill\n", "here#2 kill\n"} {
		p := newPlaces(t, line)
		if err := p.hit("here"); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestHitRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for _, line := range []string{"here", "here explode", "here#0 kill", "here#x kill", "here kill now"} {
		p := newPlaces(t, line)
		if err := p.hit("here"); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

// stopped ends the goroutine that a test lets "die", as SIGKILL ends a process.
func stopped(t *testing.T, p *places, hits int) {
	t.Helper()
	done := make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ; n < hits; n++ {
			if err := p.hit("here"); err != nil {
				t.Error(err)
			}
		}
	}()
	if n := <-done; n != hits-1 {
		t.Errorf("died at hit %d, want %d", n+1, hits)
	}
}

func TestKillAtTheThirdHit(t *testing.T) {
	p := newPlaces(t, "here#3 kill\n")
	p.signal = func() error { runtime.Goexit(); return nil }
	stopped(t, p, 3)
	if got := read(t, p.armed+".reached"); got != "here\n" {
		t.Errorf("reached says %q", got)
	}
	if _, err := os.Stat(p.armed); !os.IsNotExist(err) {
		t.Error("still armed: what cleans up would be killed as well")
	}
}

func TestGroupKill(t *testing.T) {
	p := newPlaces(t, "here groupkill\n")
	write(t, p.own, "1:name=x:/y\n0::/system.slice/a.service\n")
	file := filepath.Join(p.cgroups, "system.slice/a.service/cgroup.kill")
	write(t, file, "")
	// The kernel would not let killGroup return; a test's file does.
	if err := p.killGroup(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, file); got != "1" {
		t.Errorf("cgroup.kill got %q", got)
	}
}

func TestHangUntilDisarmed(t *testing.T) {
	p := newPlaces(t, "here hang\n")
	console := p.console
	if err := unix.Mkfifo(console, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.hit("here") }()
	heard := read(t, console) // blocks until the place is reached
	if heard != "\nrewind failpoint reached: here\n" {
		t.Errorf("the console heard %q", heard)
	}
	select {
	case err := <-done:
		t.Fatalf("passed while armed: %v", err)
	default:
	}
	if err := os.Remove(p.armed); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
