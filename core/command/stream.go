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
	longestLine = 64 << 10 // bytes; a longer line is handed on in pieces
	keptStderr  = 64 << 10 // bytes
)

// Stream runs c and hands on what it says while it runs, as Streamer says.
func (Local) Stream(ctx context.Context, c Cmd, hand func(string)) (Output, error) {
	if c.Changes {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: errors.New("not started: a program that must not be killed cannot be streamed")}
	}
	p, err := prepare(ctx, c)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer p.close()
	failpoint.Hit("command." + p.name + ".before")
	start := time.Now()
	s, err := p.talk(c.Lull)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer s.close()
	failpoint.Hit("command." + p.name + ".started")
	err = s.follow(ctx, c, hand)
	out := Output{Stderr: string(s.stderr), Elapsed: time.Since(start)}
	return out, p.typed(c, out, err)
}

// stream is a running program whose outputs are pipes.
type stream struct {
	*process
	pipes  [2]*os.File   // our ends, of stdout and stderr
	said   chan line     // closed when both pipes are at their end
	over   chan struct{} // closed when the program has ended
	quit   chan struct{}
	ended  chan error
	stderr []byte // its end
	time   uint64 // of the processor, when last looked at
}

type line struct {
	text   string
	stderr bool
}

// talk starts the program and begins to read what it says; see Cmd.Lull.
func (p *process) talk(lull time.Duration) (_ *stream, err error) {
	s := &stream{process: p, said: make(chan line), over: make(chan struct{}), quit: make(chan struct{}), ended: make(chan error, 1)}
	var theirs [2]*os.File
	defer func() {
		for _, file := range theirs {
			file.Close() // a nil *os.File refuses
		}
		if err != nil {
			s.close()
		}
	}()
	for i := range theirs {
		if s.pipes[i], theirs[i], err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1]
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	for i, file := range s.pipes {
		readers.Add(1)
		go func() {
			defer readers.Done()
			s.read(s.unhurried(file, lull), i == 1)
		}()
	}
	go func() { readers.Wait(); close(s.said) }()
	go s.wait()
	return s, nil
}

// read hands on each line of file until its end, or until nobody listens.
func (s *stream) read(file io.Reader, stderr bool) {
	scanner := bufio.NewScanner(file)
	scanner.Buffer(make([]byte, longestLine), longestLine)
	scanner.Split(splitLine)
	for scanner.Scan() {
		if scanner.Text() == "" {
			continue
		}
		select {
		case s.said <- line{scanner.Text(), stderr}:
		case <-s.quit:
			return
		}
	}
}

// splitLine splits at \n and \r, for bufio.Scanner.
func splitLine(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if len(data) >= longestLine || atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// wait ends what the program left in its group before the program itself is
// reaped: from then on the group's number may be another's.
func (s *stream) wait() {
	for {
		err := unix.Waitid(unix.P_PID, s.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	close(s.over)
	s.signal(unix.SIGKILL)
	// One that is dying still has its directory and its files open, and keeps what they lie on from being unmounted.
	for late := time.Now().Add(killLimit); groupLives(s.pid()) && time.Now().Before(late); {
		time.Sleep(time.Millisecond)
	}
	s.ended <- s.cmd.Wait()
}

// signal reaches the whole group. An error means that the group is gone.
func (s *stream) signal(sig syscall.Signal) { _ = syscall.Kill(-s.pid(), sig) }

// follow hands on what the program says until it has ended, and ends it when
// the time has come. A program that cannot be killed is left.
func (s *stream) follow(ctx context.Context, c Cmd, hand func(string)) error {
	pulse, stopPulse := every(c.Pulse)
	defer stopPulse()
	limit, stopLimit := every(c.Limit)
	defer stopLimit()
	cancelled := ctx.Done()
	var why error // it was told to end
	var killed bool
	var grace <-chan time.Time

	stop := func(reason error) {
		why, cancelled, limit = reason, nil, nil
		s.signal(cmp.Or(c.Stop, syscall.SIGTERM))
		grace = time.After(cmp.Or(c.Grace, DefaultGrace))
	}
	spoke := false
	for {
		select {
		case l, open := <-s.said:
			if !open {
				s.said = nil // closed by itself: wait for its end
				continue
			}
			spoke = true
			s.hand(c, hand, l)
		case err := <-s.ended:
			s.drain(c, hand)
			if why != nil {
				return fmt.Errorf("ended: %w", why)
			}
			return err
		case <-pulse:
			if !spoke && s.worked() {
				hand("")
			}
			spoke = false
		case <-cancelled:
			stop(whyEnded(ctx))
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

// every ticks each d, never for 0.
func every(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(d)
	return ticker.C, ticker.Stop
}

// drain hands on what the program said last. What it started outside its group
// may hold the pipes for as long as it likes, and is not waited for.
func (s *stream) drain(c Cmd, hand func(string)) {
	late := time.After(killLimit)
	for s.said != nil {
		select {
		case l, open := <-s.said:
			if !open {
				return
			}
			s.hand(c, hand, l)
		case <-late:
			return
		}
	}
}

func (s *stream) hand(c Cmd, hand func(string), l line) {
	if !l.stderr {
		hand(l.text)
		return
	}
	s.stderr = append(append(s.stderr, l.text...), '\n')
	if over := len(s.stderr) - keptStderr; over > 0 {
		s.stderr = append(s.stderr[:0], s.stderr[over:]...)
	}
	if c.Stderr != nil {
		c.Stderr(l.text)
	}
}

// worked says whether the program's group used the processor since last asked. To ask takes a look at every process there is.
func (s *stream) worked() bool {
	now := groupTime(s.pid())
	before := s.time
	s.time = now
	return now > before
}

func (s *stream) close() {
	close(s.quit)
	for _, file := range s.pipes {
		file.Close()
	}
}

// groupTime returns the processor time, in ticks, of the processes of a group
// that live now.
func groupTime(group int) uint64 {
	var sum uint64
	for p := range proc.All() {
		if p.Group == group {
			sum += p.Ticks
		}
	}
	return sum
}

// groupLives says whether a process of the group lives.
func groupLives(group int) bool {
	for p := range proc.All() {
		if p.Group == group && p.Lives() {
			return true
		}
	}
	return false
}
