package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
)

// drainLimit bounds the reading of the last output of a backend that has ended: a process that left its session may
// still hold the pipe open.
const drainLimit = time.Second

// process is a backend's process. It is a runner of go-plugin, in place of go-plugin's own, which passes on the host's
// stdin, ends only the process and not what that has started, and waits without a limit until the other end of its
// pipes is closed.
//
// The process leads a session of its own, by which its descendants are found. A process group would not do, because
// package command puts each program into a group of its own.
type process struct {
	cmd      *exec.Cmd
	startCtx context.Context // its end kills the process, until stopStartTimer is called

	stdout         *recordedStdout // the host's ends of the pipes
	stderr         *os.File
	stopStartTimer func() bool   // false if the process has been killed because startCtx ended
	timedOut       atomic.Bool   // the process was killed because starting took too long
	exited         chan struct{} // closed when the process and its session have ended
	waitErr        error         // how the process ended; to be read after exited is closed
	unkillable     []int         // processes of the session that are still alive; to be read after exited is closed
}

var _ runner.Runner = (*process)(nil)

// newProcess prepares the process. handshake are the variables that go-plugin's handshake needs. The process gets
// these, LC_ALL, PATH, HOME, TMPDIR and GODEBUG, and no other variable.
func newProcess(startCtx context.Context, p Program, tempDir string, handshake []string) *process {
	return &process{
		startCtx: startCtx,
		exited:   make(chan struct{}),
		cmd: &exec.Cmd{
			Path: p.Argv[0],
			Args: p.Argv,
			Env: append([]string{
				"LC_ALL=C", "PATH=" + command.Path, "HOME=/root", "TMPDIR=" + tempDir, command.Unsignalled,
			}, handshake...),
			Dir:         "/", // the host's directory may be on a volume that is to be unmounted
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		},
	}
}

// Start starts the process. It inherits the mount namespace of the calling thread.
func (p *process) Start(context.Context) error {
	stdout, stdoutWriter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdoutWriter.Close()
	stderr, stderrWriter, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return err
	}
	defer stderrWriter.Close()
	p.cmd.Stdout, p.cmd.Stderr = stdoutWriter, stderrWriter
	if err := p.cmd.Start(); err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	p.stdout, p.stderr = &recordedStdout{File: stdout}, stderr
	go p.watch()
	p.stopStartTimer = context.AfterFunc(p.startCtx, func() {
		p.timedOut.Store(errors.Is(p.startCtx.Err(), context.DeadlineExceeded))
		p.kill()
	})
	return nil
}

// watch waits until the process has ended, and then ends what that left running. It reaps the process last: until then
// its ID, which is also the ID of the session, cannot be used again.
func (p *process) watch() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.unkillable = endSession(p.pid())
	p.waitErr = p.cmd.Wait()
	deadline := time.Now().Add(drainLimit)
	_ = p.stdout.SetReadDeadline(deadline) // a pipe of os.Pipe has deadlines
	_ = p.stderr.SetReadDeadline(deadline)
	close(p.exited)
}

// end asks the process to end, kills it if it does not, and returns when its session has ended.
func (p *process) end() error {
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	}
	if !p.exitedWithin(endTimeout) {
		p.kill()
	}
	if !p.exitedWithin(2 * endTimeout) {
		return fmt.Errorf("process %d cannot be killed: it waits for the kernel", p.pid())
	}
	if len(p.unkillable) > 0 {
		return fmt.Errorf("it left the processes %v behind, which cannot be killed: they wait for the kernel", p.unkillable)
	}
	return nil
}

// exitedWithin waits for the end of the process and its session, and reports whether that came within the limit.
func (p *process) exitedWithin(limit time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// kill kills the process; watch ends its session. It ignores an error, which means that the process has ended.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// wasStarted reports whether there ever was a process. p may be nil.
func (p *process) wasStarted() bool { return p != nil && p.cmd.Process != nil }

// exitStatus says how the process ended. It must have exited.
func (p *process) exitStatus() string {
	if p.waitErr == nil {
		return "exit status 0"
	}
	return p.waitErr.Error()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// The following methods are those that go-plugin requires of a runner.

func (p *process) Wait(context.Context) error {
	<-p.exited
	return p.waitErr
}

// Kill is called by go-plugin when the handshake has failed and when the client is closed.
func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

func (p *process) ID() string {
	if !p.wasStarted() {
		return ""
	}
	return strconv.Itoa(p.pid())
}

func (p *process) Name() string                    { return p.cmd.Path }
func (p *process) Stdout() io.ReadCloser           { return p.stdout }
func (p *process) Stderr() io.ReadCloser           { return p.stderr }
func (p *process) Diagnose(context.Context) string { return "" }

// The addresses of sockets need no translation, because both sides see the same directory of sockets.
func (*process) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (*process) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
