package command_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func shell(script string, args ...string) command.Cmd {
	return command.Cmd{Argv: append([]string{"sh", "-c", script, "sh"}, args...)}
}

func TestRun(t *testing.T) {
	t.Setenv("LANG", "de_DE.UTF-8")
	tests := []struct {
		name   string
		cmd    command.Cmd
		stdout string
		stderr string
	}{
		{"both outputs", shell("echo out; echo err >&2"), "out\n", "err\n"},
		{"stdin", command.Cmd{Argv: []string{"cat"}, Stdin: []byte("a\x00b")}, "a\x00b", ""},
		{"empty stdin", command.Cmd{Argv: []string{"cat"}, Stdin: []byte{}}, "", ""},
		{"no stdin", command.Cmd{Argv: []string{"cat"}}, "", ""},
		{"directory", command.Cmd{Argv: []string{"pwd"}}, "/\n", ""},
		{
			"environment", command.Cmd{Argv: []string{"env"}, Env: []string{"PGDATA=/dat"}},
			"LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\nLVM_SUPPRESS_FD_WARNINGS=1\nPGDATA=/dat\n", "",
		},
		{"arguments are not expanded", command.Cmd{Argv: []string{"echo", "$HOME *", "a;b"}}, "$HOME * a;b\n", ""},
		// Run must not wait for a daemon that keeps the program's stdout open.
		{"daemon", shell("sleep 30 & echo started"), "started\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := command.Local{}.Run(t.Context(), tt.cmd)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tt.stdout, tt.stderr}, []string{out.Stdout, out.Stderr}); diff != "" {
				t.Error(diff)
			}
			if out.Elapsed <= 0 || out.Elapsed > 20*time.Second {
				t.Errorf("took %v", out.Elapsed)
			}
		})
	}
}

func TestRunFails(t *testing.T) {
	expired, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
	limited := command.Cmd{Argv: []string{"sleep", "60"}, Limit: time.Millisecond}
	tests := []struct {
		name string
		ctx  context.Context
		cmd  command.Cmd
		msg  string
		code fault.Code
		rc   int
	}{
		{
			"exit code", t.Context(), shell("echo first >&2; echo last >&2; exit 5"),
			"sh: exit code 5: last", fault.CommandFailed, 5,
		},
		{"signal", t.Context(), shell("kill -TERM $$"), "sh: signal: terminated", fault.CommandFailed, -1},
		{
			"not installed", t.Context(), command.Cmd{Argv: []string{"lvconvertx"}},
			"lvconvertx: not installed (looked in " + path + ")", fault.Unsupported, -1,
		},
		{
			"path in place of a name", t.Context(), command.Cmd{Argv: []string{"/bin/echo"}},
			`echo: "/bin/echo" is not the name of a program`, fault.CommandFailed, -1,
		},
		{"no name", t.Context(), command.Cmd{}, "command: no program named", fault.CommandFailed, -1},
		{
			"expired context", expired, shell("true"), "sh: not started: context deadline exceeded", fault.Timeout, -1,
		},
		{
			"limit", t.Context(), limited, "sleep: killed: no end after 1ms: context deadline exceeded", fault.Timeout, -1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := command.Local{}.Run(tt.ctx, tt.cmd)
			var failed *command.Error
			if !errors.As(err, &failed) {
				t.Fatalf("got %v", err)
			}
			if failed.Error() != tt.msg || failed.Code != tt.rc {
				t.Errorf("got %q (%d), want %q (%d)", failed.Error(), failed.Code, tt.msg, tt.rc)
			}
			if f := fault.Of(err); f.Code != tt.code || f.Facts["rc"] != tt.rc {
				t.Errorf("fault %q, facts %v", f.Code, f.Facts)
			}
		})
	}
}

// fifo creates a FIFO. readLine waits until a program writes a line to it, and returns that line.
func fifo(t *testing.T) (path string, readLine func() string) {
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
}

func TestCancelKillsTheWholeGroup(t *testing.T) {
	path, _ := fifo(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	childEnded := make(chan error, 1)
	go func() {
		reader, err := os.Open(path) // returns when the program's child has opened the FIFO
		if err != nil {
			t.Error(err)
			return
		}
		defer reader.Close()
		cancel(errors.New("hangup"))
		_ = reader.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadAll(reader) // returns when the child has ended
		childEnded <- err
	}()
	_, err := command.Local{}.Run(ctx, shell(`sleep 60 > "$1" & wait`, path))
	if f := fault.Of(err); f.Code != fault.Interrupted || !strings.Contains(f.Msg, "hangup") {
		t.Errorf("got %q: %v", f.Code, err)
	}
	if err := <-childEnded; err != nil {
		t.Errorf("the program's child is still alive: %v", err)
	}
}

func TestCancelDoesNotKillAProgramWithChanges(t *testing.T) {
	started, readLine := fifo(t)
	goOn := filepath.Join(filepath.Dir(started), "go")
	if err := syscall.Mkfifo(goOn, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		readLine()
		cancel()
		if err := os.WriteFile(goOn, []byte("go\n"), 0o600); err != nil {
			t.Error(err)
		}
	}()
	c := shell(`echo > "$1"; read word < "$2"; echo $word`, started, goOn)
	c.Changes = true
	out, err := command.Local{}.Run(ctx, c)
	if err != nil || out.Stdout != "go\n" {
		t.Errorf("got %q, %v", out.Stdout, err)
	}
}

func TestLimitLeavesAProgramWithChangesRunning(t *testing.T) {
	path, readLine := fifo(t)
	c := shell(`read word < "$1"; echo much; echo done > "$1"`, path)
	c.Changes, c.Limit = true, 10*time.Millisecond
	_, err := command.Local{}.Run(t.Context(), c)
	var failed *command.Error
	if !errors.As(err, &failed) || failed.Running == 0 {
		t.Fatalf("got %v", err)
	}
	f := fault.Of(err)
	if f.Code != fault.Timeout || f.Facts["pid"] != failed.Running || !strings.Contains(f.Hint, "wait until process") {
		t.Errorf("got %q, facts %v, hint %q", f.Code, f.Facts, f.Hint)
	}
	// The program goes on, and is not killed by a write to an output that nobody reads any more.
	if err := os.WriteFile(path, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readLine(); got != "done" {
		t.Errorf("it wrote %q", got)
	}
}

func TestFaultHoldsOnlyTheEndOfStderr(t *testing.T) {
	c := shell(`i=0; while [ $i -lt 500 ]; do echo "line $i"; i=$((i+1)); done >&2; exit 1`)
	_, err := command.Local{}.Run(t.Context(), c)
	stderr := fault.Of(err).Facts["stderr"].(string)
	if len(stderr) > 2048 || !strings.HasPrefix(stderr, "line ") || !strings.HasSuffix(stderr, "line 499\n") {
		t.Errorf("%d bytes: %q", len(stderr), stderr)
	}
}

func TestOutputIsBounded(t *testing.T) {
	out, err := command.Local{}.Run(t.Context(), command.Cmd{Argv: []string{"head", "-c", "70000000", "/dev/zero"}})
	if err == nil || !strings.Contains(err.Error(), "longer than 67108864 bytes") {
		t.Errorf("got %v", err)
	}
	if len(out.Stdout) != 64<<20 {
		t.Errorf("kept %d bytes", len(out.Stdout))
	}
}
