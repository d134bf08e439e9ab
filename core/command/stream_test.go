package command_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func ignore(string) {}

func TestStream(t *testing.T) {
	tests := []struct {
		name   string
		cmd    command.Cmd
		stdout []string
		stderr string
	}{
		{"lines", shell(`printf 'one\ntwo\r three\r\n\nfour'; printf 'a\rb\n' >&2`), []string{"one", "two", " three", "four"}, "a\nb\n"},
		{"nothing", shell("true"), nil, ""},
		{"stdin", command.Cmd{Argv: []string{"cat"}, Stdin: []byte("x\ny")}, []string{"x", "y"}, ""},
		{"its output closed", shell("exec >&- 2>&-; true"), nil, ""},
		{"a long line", shell(`head -c 65537 /dev/zero | tr '\0' a`), []string{strings.Repeat("a", 65536), "a"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout []string
			stderr := ""
			tt.cmd.Stderr = func(line string) { stderr += line + "\n" }
			out, err := command.Local{}.Stream(t.Context(), tt.cmd, func(line string) { stdout = append(stdout, line) })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.stdout, stdout); diff != "" {
				t.Error(diff)
			}
			if stderr != tt.stderr || out.Stderr != tt.stderr || out.Stdout != "" {
				t.Errorf("handed %q, returned %+v", stderr, out)
			}
		})
	}
}

// What it says is handed on when it says it, not when it ends.
func TestStreamIsLive(t *testing.T) {
	path, _ := fifo(t)
	answered := make(chan error, 1)
	_, err := command.Local{}.Stream(t.Context(), shell(`echo ask; read word < "$1"; echo $word`, path), func(line string) {
		if line == "ask" {
			go func() { answered <- os.WriteFile(path, []byte("answer\n"), 0o600) }()
		} else if line != "answer" {
			t.Errorf("said %q", line)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestStreamFails(t *testing.T) {
	late, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	changes := shell("true")
	changes.Changes = true
	limited := command.Cmd{Argv: []string{"sleep", "60"}, Limit: time.Millisecond}
	tests := []struct {
		name string
		ctx  context.Context
		cmd  command.Cmd
		msg  string
		code fault.Code
	}{
		{"exit code", t.Context(), shell("echo first >&2; echo last >&2; exit 5"), "sh: exit code 5: last", fault.CommandFailed},
		{"not installed", t.Context(), command.Cmd{Argv: []string{"resticx"}}, "resticx: not installed (looked in /usr/sbin:/usr/bin:/sbin:/bin)", fault.Unsupported},
		{"too late", late, shell("true"), "sh: not started: context deadline exceeded", fault.Timeout},
		{"limit", t.Context(), limited, "sleep: ended: no end after 1ms: context deadline exceeded", fault.Timeout},
		{"changes", t.Context(), changes, "sh: not started: a program that must not be killed cannot be streamed", fault.CommandFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := command.Local{}.Stream(tt.ctx, tt.cmd, ignore)
			if f := fault.Of(err); f == nil || f.Msg != tt.msg || f.Code != tt.code {
				t.Errorf("got %v", err)
			}
		})
	}
}

// cancelOn runs script until it says "ready", gives up, and returns what it said after that.
func cancelOn(t *testing.T, c command.Cmd) (after []string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = command.Local{}.Stream(ctx, c, func(line string) {
		if line == "ready" {
			cancel(errors.New("hangup"))
			return
		}
		after = append(after, line)
	})
	if f := fault.Of(err); f == nil || f.Code != fault.Interrupted || !strings.Contains(f.Msg, "hangup") {
		t.Errorf("got %v", err)
	}
	return after, err
}

func TestStreamAsksTheProgramToEnd(t *testing.T) {
	for stop, name := range map[syscall.Signal]string{0: "TERM", syscall.SIGINT: "INT"} {
		c := shell(`trap 'echo tidy; exit 0' `+name+`; echo ready; while :; do read word < "$1"; done`, blocked(t))
		c.Stop = stop
		if after, _ := cancelOn(t, c); !cmp.Equal(after, []string{"tidy"}) {
			t.Errorf("%s: it said %q", name, after)
		}
	}
}

// blocked returns a FIFO that no one writes to.
func blocked(t *testing.T) string {
	path, _ := fifo(t)
	return path
}

func TestStreamKillsWhatDoesNotEnd(t *testing.T) {
	path, _ := fifo(t)
	held := hold(t, path)
	c := shell(`exec 3> "$1"; trap '' TERM; sleep 60 & echo ready; wait; wait`, path)
	c.Grace = time.Millisecond
	_, _ = cancelOn(t, c)
	held()
}

func TestStreamLeavesNothingOfItsGroup(t *testing.T) {
	path, _ := fifo(t)
	held := hold(t, path)
	if _, err := (command.Local{}).Stream(t.Context(), shell(`exec 3> "$1"; sleep 60 & echo started`, path), ignore); err != nil {
		t.Fatal(err)
	}
	held()
}

// hold reads a FIFO; what it returns waits until no program has it open for writing any more.
func hold(t *testing.T, path string) (gone func()) {
	ended := make(chan error, 1)
	go func() {
		file, err := os.Open(path) // waits for the first to open it
		if err == nil {
			defer file.Close()
			_ = file.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = io.ReadAll(file)
		}
		ended <- err
	}()
	return func() {
		t.Helper()
		if err := <-ended; err != nil {
			t.Errorf("a program lives on: %v", err)
		}
	}
}

// What left the group (setsid) cannot be ended with it, and must not keep us for long.
func TestStreamDoesNotWaitForDaemons(t *testing.T) {
	daemon := 0
	out, err := command.Local{}.Stream(t.Context(), shell(`setsid sleep 60 & echo $!`), func(line string) { daemon, _ = strconv.Atoi(line) })
	if daemon == 0 {
		t.Fatal("it did not say its daemon's id")
	}
	defer syscall.Kill(daemon, syscall.SIGKILL)
	if err != nil || out.Elapsed > 30*time.Second {
		t.Errorf("%v after %v", err, out.Elapsed)
	}
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon has ended, so that this proves nothing: %v", err)
	}
}

// TestStreamPulse: a program that says nothing and works is known from one that says nothing and waits.
func TestStreamPulse(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	beats := 0
	c := shell("while :; do :; done")
	c.Pulse = 50 * time.Millisecond
	_, err := command.Local{}.Stream(ctx, c, func(line string) {
		if line != "" {
			t.Errorf("said %q", line)
		}
		if beats++; beats == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	beats = 0
	c = command.Cmd{Argv: []string{"sleep", "1"}, Pulse: 50 * time.Millisecond}
	if _, err := (command.Local{}).Stream(t.Context(), c, func(string) { beats++ }); err != nil {
		t.Fatal(err)
	}
	if beats > 2 { // its start may count
		t.Errorf("%d beats of a program that waits", beats)
	}
}

func TestStreamKeepsTheLastWords(t *testing.T) {
	c := shell(`i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done >&2`)
	n := 0
	c.Stderr = func(string) { n++ }
	out, err := command.Local{}.Stream(t.Context(), c, ignore)
	if err != nil {
		t.Fatal(err)
	}
	if n != 20000 || len(out.Stderr) != 64<<10 || !strings.HasSuffix(out.Stderr, "line 19999\n") {
		t.Errorf("handed %d lines, kept %d bytes", n, len(out.Stderr))
	}
}

// FuzzSplitLine: nothing is lost, nothing invented, whatever a program says.
func FuzzSplitLine(f *testing.F) {
	f.Add("one\ntwo\r\nthree", 3)
	f.Add(strings.Repeat("x", 70000), 4095)
	f.Fuzz(func(t *testing.T, text string, piece int) {
		scanner := bufio.NewScanner(&pieces{strings.NewReader(text), 1 + (piece & 0xfff)})
		scanner.Buffer(nil, command.LongestLine)
		scanner.Split(command.SplitLine)
		var got strings.Builder
		for scanner.Scan() {
			if strings.ContainsAny(scanner.Text(), "\r\n") || len(scanner.Text()) > command.LongestLine {
				t.Fatalf("no line: %q", scanner.Text())
			}
			got.WriteString(scanner.Text())
		}
		if scanner.Err() != nil {
			t.Fatal(scanner.Err())
		}
		if want := strings.NewReplacer("\r", "", "\n", "").Replace(text); got.String() != want {
			t.Errorf("%q became %q", want, got.String())
		}
	})
}

// pieces hands a text out n bytes at a time at most, as a pipe does.
type pieces struct {
	io.Reader
	n int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.n)]) }
