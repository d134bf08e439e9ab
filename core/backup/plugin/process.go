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

// drain bounds the reading of a dead backend's last words, should a process that left its session hold the pipe.
const drain = time.Second

// process is a backend's process as go-plugin runs it. go-plugin's own runner hands on our stdin, ends the process only
// and never what it started, and waits without a limit for the other end of its pipes.
//
// The process leads a session of its own. A process group would not do: core/command gives each program a group.
type process struct {
	cmd      *exec.Cmd
	starting context.Context // its end kills the process, until keep

	stdout *greeting // our ends of the pipes
	stderr *os.File
	keep   func() bool
	late   atomic.Bool   // it was killed because starting took too long
	exited chan struct{} // closed when it and its session are gone
	state  error         // how it ended; read after exited
	left   []int         // what cannot be killed; read after exited
}

var _ runner.Runner = (*process)(nil)

// newProcess takes from go-plugin what the handshake needs of the environment, and nothing else.
func newProcess(starting context.Context, p Program, home string, handshake []string) *process {
	return &process{
		starting: starting,
		exited:   make(chan struct{}),
		cmd: &exec.Cmd{
			Path: p.Argv[0],
			Args: p.Argv,
			Env: append([]string{
				"LC_ALL=C", "PATH=" + command.Path, "HOME=/root", "TMPDIR=" + home, command.Unsignalled,
			}, handshake...),
			Dir:         "/", // ours may lie on what is unmounted
			SysProcAttr: &syscall.SysProcAttr{Setsid: true},
		},
	}
}

// Start starts the process from the thread of the caller, whose mount namespace it inherits.
func (p *process) Start(context.Context) error {
	stdout, outEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outEnd.Close()
	stderr, errEnd, err := os.Pipe()
	if err != nil {
		stdout.Close()
		return err
	}
	defer errEnd.Close()
	p.cmd.Stdout, p.cmd.Stderr = outEnd, errEnd
	if err := p.cmd.Start(); err != nil {
		stdout.Close()
		stderr.Close()
		return err
	}
	p.stdout, p.stderr = &greeting{File: stdout}, stderr
	go p.watch()
	p.keep = context.AfterFunc(p.starting, func() {
		p.late.Store(errors.Is(p.starting.Err(), context.DeadlineExceeded))
		p.kill()
	})
	return nil
}

// watch waits for the end of the process and ends what it left running. It is reaped last: until then its number, which
// is that of the session, cannot become another's.
func (p *process) watch() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.left = endSession(p.pid())
	p.state = p.cmd.Wait()
	until := time.Now().Add(drain)
	_ = p.stdout.SetReadDeadline(until) // a pipe of os.Pipe has deadlines
	_ = p.stderr.SetReadDeadline(until)
	close(p.exited)
}

// end asks the process to end, kills it when it does not, and returns when its session is gone.
func (p *process) end() error {
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	}
	if !p.within(endLimit) {
		p.kill()
	}
	if !p.within(2 * endLimit) {
		return fmt.Errorf("process %d cannot be killed: it waits for the kernel", p.pid())
	}
	if len(p.left) > 0 {
		return fmt.Errorf("it left the processes %v behind, which cannot be killed: they wait for the kernel", p.left)
	}
	return nil
}

func (p *process) within(limit time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// kill kills the process; watch does the rest. An error means that it has ended.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// started tells whether there ever was a process.
func (p *process) started() bool { return p != nil && p.cmd.Process != nil }

// how says how a process ended that has exited.
func (p *process) how() string {
	if p.state == nil {
		return "exit status 0"
	}
	return p.state.Error()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// The rest is what go-plugin wants of a runner.

func (p *process) Wait(context.Context) error {
	<-p.exited
	return p.state
}

// Kill is called when the handshake failed, and for good measure.
func (p *process) Kill(context.Context) error {
	p.kill()
	return nil
}

func (p *process) ID() string {
	if !p.started() {
		return ""
	}
	return strconv.Itoa(p.pid())
}

func (p *process) Name() string                    { return p.cmd.Path }
func (p *process) Stdout() io.ReadCloser           { return p.stdout }
func (p *process) Stderr() io.ReadCloser           { return p.stderr }
func (p *process) Diagnose(context.Context) string { return "" }

// Both sides see the same file system, as far as sockets go.
func (*process) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }
func (*process) HostToPlugin(network, addr string) (string, string, error) { return network, addr, nil }
