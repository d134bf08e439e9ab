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
		{
			"lines", shell(`printf 'one\ntwo\r three\r\n\nfour'; printf 'a\rb\n' >&2`),
			[]string{"one", "two", " three", "four"}, "a\nb\n",
		},
		{"no output", shell("true"), nil, ""},
		{"stdin", command.Cmd{Argv: []string{"cat"}, Stdin: []byte("x\ny")}, []string{"x", "y"}, ""},
		{"closed outputs", shell("exec >&- 2>&-; true"), nil, ""},
		{"long line", shell(`head -c 65537 /dev/zero | tr '\0' a`), []string{strings.Repeat("a", 65536), "a"}, ""},
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
				t.Errorf("delivered %q, returned %+v", stderr, out)
			}
		})
	}
}

// A line is delivered when the program writes it, not when the program ends.
func TestStreamDeliversWhileTheProgramRuns(t *testing.T) {
	path, _ := fifo(t)
	answered := make(chan error, 1)
	c := shell(`echo ask; read word < "$1"; echo $word`, path)
	_, err := command.Local{}.Stream(t.Context(), c, func(line string) {
		if line == "ask" {
			go func() { answered <- os.WriteFile(path, []byte("answer\n"), 0o600) }()
		} else if line != "answer" {
			t.Errorf("the line is %q", line)
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
	expired, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	const path = "/usr/sbin:/usr/bin:/sbin:/bin"
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
		{
			"exit code", t.Context(), shell("echo first >&2; echo last >&2; exit 5"),
			"sh: exit code 5: last", fault.CommandFailed,
		},
		{
			"not installed", t.Context(), command.Cmd{Argv: []string{"resticx"}},
			"resticx: not installed (looked in " + path + ")", fault.Unsupported,
		},
		{"expired context", expired, shell("true"), "sh: not started: context deadline exceeded", fault.Timeout},
		{"limit", t.Context(), limited, "sleep: ended: no end after 1ms: context deadline exceeded", fault.Timeout},
		{
			"changes", t.Context(), changes,
			"sh: not started: a program that must not be killed cannot be streamed", fault.CommandFailed,
		},
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

// cancelWhenReady streams c, cancels the context when c writes "ready", and returns the lines after that.
func cancelWhenReady(t *testing.T, c command.Cmd) (after []string, err error) {
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

func TestStreamSendsStopSignal(t *testing.T) {
	for stop, name := range map[syscall.Signal]string{0: "TERM", syscall.SIGINT: "INT"} {
		c := shell(`trap 'echo trapped; exit 0' `+name+`; echo ready; while :; do read word < "$1"; done`, unwrittenFIFO(t))
		c.Stop = stop
		if after, _ := cancelWhenReady(t, c); !cmp.Equal(after, []string{"trapped"}) {
			t.Errorf("%s: it wrote %q", name, after)
		}
	}
}

// unwrittenFIFO returns the path of a FIFO that nothing writes to, so that a read from it blocks.
func unwrittenFIFO(t *testing.T) string {
	path, _ := fifo(t)
	return path
}

func TestStreamKillsAProgramThatIgnoresStop(t *testing.T) {
	path, _ := fifo(t)
	awaitEnd := openedForWriting(t, path)
	c := shell(`exec 3> "$1"; trap '' TERM; sleep 60 & echo ready; wait; wait`, path)
	c.Grace = time.Millisecond
	_, _ = cancelWhenReady(t, c)
	awaitEnd()
}

func TestStreamKillsTheRestOfTheGroup(t *testing.T) {
	path, _ := fifo(t)
	awaitEnd := openedForWriting(t, path)
	c := shell(`exec 3> "$1"; sleep 60 & echo started`, path)
	if _, err := (command.Local{}).Stream(t.Context(), c, ignore); err != nil {
		t.Fatal(err)
	}
	awaitEnd()
}

// openedForWriting reads a FIFO. awaitEnd waits until no program has the FIFO open for writing any more.
func openedForWriting(t *testing.T, path string) (awaitEnd func()) {
	ended := make(chan error, 1)
	go func() {
		file, err := os.Open(path) // returns when a program has opened the FIFO
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
			t.Errorf("a program is still alive: %v", err)
		}
	}
}

// A daemon has left the process group (setsid(1)) and is not killed with it. Stream must not wait long for it.
func TestStreamDoesNotWaitForDaemons(t *testing.T) {
	daemon := 0
	c := shell(`setsid sleep 60 & echo $!`)
	out, err := command.Local{}.Stream(t.Context(), c, func(line string) { daemon, _ = strconv.Atoi(line) })
	if daemon == 0 {
		t.Fatal("the process id of the daemon is unknown")
	}
	defer syscall.Kill(daemon, syscall.SIGKILL)
	if err != nil || out.Elapsed > 30*time.Second {
		t.Errorf("%v after %v", err, out.Elapsed)
	}
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon has ended, so that this test proves nothing: %v", err)
	}
}

// Of two silent programs, Stream reports the one that uses the processor as busy, and not the one that sleeps.
func TestPulseTellsBusyFromIdle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pulses := 0
	c := shell("while :; do :; done")
	c.BusyCheck = 50 * time.Millisecond
	_, err := command.Local{}.Stream(ctx, c, func(line string) {
		if line != "" {
			t.Errorf("the line is %q", line)
		}
		if pulses++; pulses == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	pulses = 0
	c = command.Cmd{Argv: []string{"sleep", "1"}, BusyCheck: 50 * time.Millisecond}
	if _, err := (command.Local{}).Stream(t.Context(), c, func(string) { pulses++ }); err != nil {
		t.Fatal(err)
	}
	if pulses > 2 { // its start uses the processor, too
		t.Errorf("%d pulses of a program that sleeps", pulses)
	}
}

// A program that waits for another host uses no processor time. It counts as busy until MaxIdle is over.
func TestPulseOfProgramThatWaitsForAnotherHost(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pulses := 0
	c := command.Cmd{Argv: []string{"sleep", "60"}, BusyCheck: 10 * time.Millisecond, MaxIdle: time.Hour}
	_, err := command.Local{}.Stream(ctx, c, func(string) {
		if pulses++; pulses == 10 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	pulses = 0
	c = command.Cmd{Argv: []string{"sleep", "1"}, BusyCheck: 50 * time.Millisecond, MaxIdle: time.Millisecond}
	if _, err := (command.Local{}).Stream(t.Context(), c, func(string) { pulses++ }); err != nil {
		t.Fatal(err)
	}
	if pulses > 2 { // its start uses the processor, too
		t.Errorf("%d pulses of a program that is idle for longer", pulses)
	}
}

func TestStreamKeepsTheEndOfStderr(t *testing.T) {
	c := shell(`i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done >&2`)
	n := 0
	c.Stderr = func(string) { n++ }
	out, err := command.Local{}.Stream(t.Context(), c, ignore)
	if err != nil {
		t.Fatal(err)
	}
	if n != 20000 || len(out.Stderr) != 64<<10 || !strings.HasSuffix(out.Stderr, "line 19999\n") {
		t.Errorf("delivered %d lines, kept %d bytes", n, len(out.Stderr))
	}
}

// The lines together are the text without its line ends, whatever the text is and in whatever pieces it is read.
func FuzzSplitLine(f *testing.F) {
	f.Add("one\ntwo\r\nthree", 3)
	f.Add(strings.Repeat("x", 70000), 4095)
	f.Fuzz(func(t *testing.T, text string, readSize int) {
		scanner := bufio.NewScanner(&shortReader{strings.NewReader(text), 1 + (readSize & 0xfff)})
		scanner.Buffer(nil, command.LongestLine)
		scanner.Split(command.SplitLine)
		var got strings.Builder
		for scanner.Scan() {
			if strings.ContainsAny(scanner.Text(), "\r\n") || len(scanner.Text()) > command.LongestLine {
				t.Fatalf("not a line: %q", scanner.Text())
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

// shortReader returns at most n bytes from each Read, as a pipe may.
type shortReader struct {
	io.Reader
	n int
}

func (r *shortReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), r.n)]) }
