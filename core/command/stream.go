package command

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/proc"
)

const (
	longestLine = 64 << 10 // bytes; a longer line is delivered in pieces
	keptStderr  = 64 << 10 // bytes of stderr that Output holds
)

// Stream runs c and delivers its output while it runs; see Streamer.
func (Local) Stream(ctx context.Context, c Cmd, onLine func(string)) (Output, error) {
	if c.Changes {
		err := errors.New("not started: a program that must not be killed cannot be streamed")
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	p, err := prepare(ctx, c)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer p.close()
	failpoint.Hit("command." + p.name + ".before")
	start := time.Now()
	s, err := p.startStream(c.MaxDelay)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer s.stopReaders()
	if c.Started != nil {
		c.Started(p.pid())
	}
	failpoint.Hit("command." + p.name + ".started")
	err = s.deliverAll(ctx, c, onLine)
	out := Output{Stderr: string(s.stderrTail), Elapsed: time.Since(start)}
	return out, p.asError(c, out, err)
}

// stream is a running program whose outputs are pipes.
type stream struct {
	*process
	pipes      [2]*os.File   // the ends for reading, of stdout and stderr
	lines      chan line     // closed when both pipes are at their end
	exited     chan struct{} // closed when the program has ended; its process group may still be alive
	stopped    chan struct{} // closed by stopReaders
	ended      chan error    // receives the program's error, or nil, when its process group has ended
	stderrTail []byte        // the last part of stderr
	ticks      uint64        // processor time of the process group at the last check, in clock ticks
}

// line is one line of output.
type line struct {
	text     string
	isStderr bool
}

// startStream starts the program and the goroutines that read its output. maxDelay is Cmd.MaxDelay.
func (p *process) startStream(maxDelay time.Duration) (_ *stream, err error) {
	s := &stream{
		process: p, lines: make(chan line), exited: make(chan struct{}), stopped: make(chan struct{}),
		ended: make(chan error, 1),
	}
	var writeEnds [2]*os.File
	defer func() {
		for _, file := range writeEnds {
			file.Close() // on a nil *os.File it only returns an error
		}
		if err != nil {
			s.stopReaders()
		}
	}()
	for i := range writeEnds {
		if s.pipes[i], writeEnds[i], err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	p.cmd.Stdout, p.cmd.Stderr = writeEnds[0], writeEnds[1]
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	for i, file := range s.pipes {
		readers.Add(1)
		go func() {
			defer readers.Done()
			s.read(s.batched(file, maxDelay), i == 1)
		}()
	}
	go func() { readers.Wait(); close(s.lines) }()
	go s.wait()
	return s, nil
}

// read sends each line of a pipe to s.lines, until the end of the pipe or until stopReaders is called.
func (s *stream) read(pipe io.Reader, isStderr bool) {
	scanner := bufio.NewScanner(pipe)
	scanner.Buffer(make([]byte, longestLine), longestLine)
	scanner.Split(splitLine)
	for scanner.Scan() {
		if scanner.Text() == "" {
			continue
		}
		select {
		case s.lines <- line{scanner.Text(), isStderr}:
		case <-s.stopped:
			return
		}
	}
}

// splitLine is a bufio.SplitFunc that splits at \n and \r, and after longestLine bytes.
func splitLine(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if len(data) >= longestLine || atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// wait waits for the end of the program, kills what is left of its process group, and only then reaps the program.
// After that the kernel may give the id of the process group to another one.
func (s *stream) wait() {
	for {
		err := unix.Waitid(unix.P_PID, s.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	close(s.exited)
	s.signal(unix.SIGKILL)
	// A killed process has its working directory and its files open until it has ended. While it has, their file systems
	// cannot be unmounted.
	for deadline := time.Now().Add(killLimit); isGroupAlive(s.pid()) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	s.ended <- s.cmd.Wait()
}

// signal sends sig to the whole process group. An error means that the group has ended, and is ignored.
func (s *stream) signal(sig syscall.Signal) { _ = syscall.Kill(-s.pid(), sig) }

// deliverAll delivers the output until the program has ended. When ctx ends or c.Limit is reached, it ends the program.
// A program that cannot be killed is left running.
func (s *stream) deliverAll(ctx context.Context, c Cmd, onLine func(string)) error {
	pulse, stopPulse := newTicker(c.BusyCheck)
	defer stopPulse()
	limit, stopLimit := newTicker(c.Limit)
	defer stopLimit()
	cancelled := ctx.Done()
	var why error // why the program was told to end; nil if it was not
	var killed bool
	var grace <-chan time.Time

	stop := func(reason error) {
		why, cancelled, limit = reason, nil, nil
		s.signal(cmp.Or(c.Stop, syscall.SIGTERM))
		grace = time.After(cmp.Or(c.Grace, DefaultGrace))
	}
	wroteLine, lastLine := false, time.Now() // wroteLine: since the last pulse
	for {
		select {
		case l, open := <-s.lines:
			if !open {
				s.lines = nil // the program has closed its outputs, and may still run
				continue
			}
			wroteLine, lastLine = true, time.Now()
			s.deliver(c, onLine, l)
		case err := <-s.ended:
			s.deliverRemaining(c, onLine)
			if why != nil {
				return fmt.Errorf("ended: %w", why)
			}
			return err
		case <-pulse:
			if !wroteLine && (s.isBusy() || time.Since(lastLine) < c.MaxIdle) {
				onLine("")
			}
			wroteLine = false
		case <-cancelled:
			stop(contextError(ctx))
		case <-limit:
			stop(fmt.Errorf("no end after %v: %w", c.Limit, context.DeadlineExceeded))
		case <-grace:
			if killed {
				return leftRunning{fmt.Errorf("%w; process %d cannot be killed: it waits for the kernel", why, s.pid())}
			}
			killed = true
			s.signal(syscall.SIGKILL)
			grace = time.After(killLimit)
		}
	}
}

// newTicker returns a channel that receives a value every d, and a function that stops it. If d is 0, the channel is
// nil and receives nothing.
func newTicker(d time.Duration) (ticks <-chan time.Time, stop func()) {
	if d <= 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(d)
	return ticker.C, ticker.Stop
}

// deliverRemaining delivers what is left in the pipes when the program has ended. It has a time limit, because a
// process that the program started outside its process group may keep the pipes open.
func (s *stream) deliverRemaining(c Cmd, onLine func(string)) {
	timeout := time.After(killLimit)
	for s.lines != nil {
		select {
		case l, open := <-s.lines:
			if !open {
				return
			}
			s.deliver(c, onLine, l)
		case <-timeout:
			return
		}
	}
}

// deliver passes a line of stdout to onLine and a line of stderr to c.Stderr. It also keeps the last part of stderr.
func (s *stream) deliver(c Cmd, onLine func(string), l line) {
	if !l.isStderr {
		onLine(l.text)
		return
	}
	s.stderrTail = append(append(s.stderrTail, l.text...), '\n')
	if excess := len(s.stderrTail) - keptStderr; excess > 0 {
		s.stderrTail = append(s.stderrTail[:0], s.stderrTail[excess:]...)
	}
	if c.Stderr != nil {
		c.Stderr(l.text)
	}
}

// isBusy reports whether the process group has used processor time since the last call. It reads /proc of every process
// on the host.
func (s *stream) isBusy() bool {
	before := s.ticks
	s.ticks = groupTicks(s.pid())
	return s.ticks > before
}

// stopReaders ends the goroutines that read the output, and closes the pipes.
func (s *stream) stopReaders() {
	close(s.stopped)
	for _, file := range s.pipes {
		file.Close()
	}
}

// groupTicks returns the processor time that the current processes of a process group have used, in clock ticks.
func groupTicks(group int) uint64 {
	var sum uint64
	for p := range proc.All() {
		if p.Group == group {
			sum += p.Ticks
		}
	}
	return sum
}

// isGroupAlive reports whether the process group has a process that has not ended.
func isGroupAlive(group int) bool {
	for p := range proc.All() {
		if p.Group == group && p.IsAlive() {
			return true
		}
	}
	return false
}
