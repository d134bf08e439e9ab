package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	got, ok := parse("812 (a) b) S 1 810 811 34816 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0 4711 1 1\n")
	want := Stat{PID: 812, State: "S", Parent: 1, Group: 810, Session: 811, Terminal: 34816, Ticks: 12, StartTicks: 4711}
	if got != want || !ok {
		t.Errorf("got %+v, %v", got, ok)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("812 (a) b) S 1 812 812 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0 1 1 1")
	f.Add("812 (x) S")
	f.Add("812 (x) S 1 812 812 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0")
	f.Add(") (")
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := parse(text); !ok && s != (Stat{}) {
			t.Errorf("%q: not parsed, but the result is %+v", text, s)
		}
	})
}

// startChild starts a program that runs until it is killed, at the latest at the end of the test.
func startChild(t *testing.T) *exec.Cmd {
	c := exec.Command("cat")
	c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if _, err := c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c
}

func TestFindAndAllFindAChild(t *testing.T) {
	pid := startChild(t).Process.Pid
	s, ok := Find(pid)
	if !ok || s.PID != pid || s.Parent != os.Getpid() || !s.IsSessionLeader() || s.Group != pid || !s.IsAlive() ||
		s.Terminal != 0 {
		t.Errorf("%+v, %v", s, ok)
	}
	seen := false
	for p := range All() {
		seen = seen || p.PID == pid
	}
	if !seen {
		t.Error("All does not yield the child")
	}
}

// Wait also returns for a zombie. After a Wait that ended with its context, the handle can be used again.
func TestWaitReturnsForZombieAndAfterTimeout(t *testing.T) {
	c := startChild(t)
	h, err := Open(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the process runs, but Wait returns %v", err)
	}
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if s, ok := Find(c.Process.Pid); !ok || s.IsAlive() {
		t.Errorf("%+v, %v, want a zombie", s, ok)
	}
	_ = c.Wait() // reaps the zombie; the error says that it was killed
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Errorf("after its end: %v", err)
	}
	if err := Wait(t.Context(), c.Process.Pid); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
