package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/failpoint"
)

// Path lists the directories in which programs are looked up. It is also the PATH that programs get. The caller's own
// PATH is not used, because the programs run as root.
const Path = "/usr/sbin:/usr/bin:/sbin:/bin"

// Unsignalled is an environment variable for those programs of Rewind that may read a backup in restic's mount. With it
// the Go scheduler sends no signals to their threads. restic 0.14, the version in Debian 12, returns an I/O error from
// a system call on its mount that a signal interrupts, so that a restore would fail at random (restic, issue 3694).
const Unsignalled = "GODEBUG=asyncpreemptoff=1"

const (
	maxOutput = 64 << 20        // bytes that are read of a program's stdout or stderr
	killLimit = 5 * time.Second // how long to wait for the end of a program after SIGKILL
)

// Local runs commands on this host. It is a Streamer.
type Local struct{}

// Run runs c and waits for it; see Runner. Each program gets a process group of its own, so that Ctrl-C on the terminal
// sends SIGINT to this process only.
func (Local) Run(ctx context.Context, c Cmd) (Output, error) {
	p, err := prepare(ctx, c)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer p.close()
	if err := p.openOutputs(); err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	failpoint.Hit("command." + p.name + ".before")
	start := time.Now()
	err = p.run(ctx, c)
	return p.finish(c, Output{Elapsed: time.Since(start)}, err)
}

// process is a command with the files that it reads and writes. Run uses files in memory (memfd_create(2)) and not
// pipes, for two reasons: a program that outlives this process must not be killed by SIGPIPE, and if a program leaves a
// daemon behind (lvconvert -b), Run must not wait until the daemon closes its end of a pipe.
type process struct {
	name                  string // in the names of failpoints
	cmd                   *exec.Cmd
	stdin, stdout, stderr *os.File
}

// prepare returns the process for c, which is not started and has no outputs yet.
func prepare(ctx context.Context, c Cmd) (*process, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("not started: %w", contextError(ctx))
	}
	path, err := lookup(c)
	if err != nil {
		return nil, err
	}
	p := &process{
		name: failpointName(path, c.Argv),
		cmd: &exec.Cmd{
			Path:        path,
			Args:        c.Argv,
			Env:         environ(c.Env),
			Dir:         "/", // this process's own directory may be on a file system that the program unmounts
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		},
	}
	if err := p.setStdin(c.Stdin); err != nil {
		p.close()
		return nil, err
	}
	if c.Hold != nil {
		p.cmd.Stdin = c.Hold
	}
	return p, nil
}

// failpointName returns the program's name as failpoints use it. lvm(8) is many programs in one, and has the name of
// the LVM command that it runs.
func failpointName(path string, argv []string) string {
	name := filepath.Base(path)
	if name == "lvm" && len(argv) > 1 {
		return argv[1]
	}
	return name
}

// lookup returns the path of the program.
func lookup(c Cmd) (string, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return "", errors.New("no program named")
	}
	name := c.Argv[0]
	if strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not the name of a program", name)
	}
	for _, dir := range filepath.SplitList(Path) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// environ returns the whole environment of a program. Without LVM_SUPPRESS_FD_WARNINGS, LVM warns of every open file
// descriptor that it inherits (lvm(8)).
func environ(extra []string) []string {
	return slices.Concat([]string{"LC_ALL=C", "PATH=" + Path, "HOME=/root", "LVM_SUPPRESS_FD_WARNINGS=1"}, extra)
}

// openOutputs creates the files for stdout and stderr.
func (p *process) openOutputs() (err error) {
	if p.stdout, err = newMemoryFile("stdout"); err != nil {
		return err
	}
	if p.stderr, err = newMemoryFile("stderr"); err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	return nil
}

// setStdin makes the program read these bytes; nil means /dev/null.
func (p *process) setStdin(stdin []byte) (err error) {
	if stdin == nil {
		return nil
	}
	if p.stdin, err = newMemoryFile("stdin"); err != nil {
		return err
	}
	p.cmd.Stdin = p.stdin
	if _, err = p.stdin.Write(stdin); err != nil {
		return err
	}
	_, err = p.stdin.Seek(0, io.SeekStart)
	return err
}

// newMemoryFile creates a file in memory. The name shows in /proc only.
func newMemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// close closes the files.
func (p *process) close() {
	for _, file := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if file != nil {
			file.Close()
		}
	}
}

// run starts the program. It returns when the program has ended, or when the program is left running.
func (p *process) run(ctx context.Context, c Cmd) error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if c.Started != nil {
		c.Started(p.pid())
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	failpoint.Hit("command." + p.name + ".started")

	limit := c.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	cancelled := ctx.Done()
	if c.Changes {
		cancelled = nil
	}
	select {
	case err := <-ended:
		return err
	case <-cancelled:
		return p.kill(ended, contextError(ctx))
	case <-timer.C:
	}
	timeout := fmt.Errorf("no end after %v: %w", limit, context.DeadlineExceeded)
	if c.Changes {
		return leftRunning{fmt.Errorf("%w; process %d was left to finish, because ending it halfway does damage",
			timeout, p.pid())}
	}
	return p.kill(ended, timeout)
}

// kill kills the program and all other processes in its process group. why is the reason for the error that it returns.
// A program that waits for a suspended device ends only when the device is resumed.
func (p *process) kill(ended <-chan error, why error) error {
	// An error means that the process group has ended already.
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	timer := time.NewTimer(killLimit)
	defer timer.Stop()
	select {
	case <-ended:
		return fmt.Errorf("killed: %w", why)
	case <-timer.C:
		return leftRunning{fmt.Errorf("%w; process %d cannot be killed: it waits for the kernel", why, p.pid())}
	}
}

// pid returns the process id.
func (p *process) pid() int { return p.cmd.Process.Pid }

// leftRunning is the error for a program that was left running.
type leftRunning struct{ error }

// Unwrap returns the error with the reason.
func (e leftRunning) Unwrap() error { return e.error }

// contextError returns the error of ctx, joined with its cause (context.Cause) if that is a different error.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// finish reads the program's output. It returns failed, or an error in reading, as an *Error.
func (p *process) finish(c Cmd, out Output, failed error) (Output, error) {
	var stdoutErr, stderrErr error
	out.Stdout, stdoutErr = contents(p.stdout)
	out.Stderr, stderrErr = contents(p.stderr)
	if failed == nil {
		failed = errors.Join(stdoutErr, stderrErr)
	}
	return out, p.asError(c, out, failed)
}

// asError returns failed as an *Error; nil for nil.
func (p *process) asError(c Cmd, out Output, failed error) error {
	if failed == nil {
		return nil
	}
	e := &Error{Argv: c.Argv, Code: -1, Stderr: out.Stderr, Err: failed}
	var exit *exec.ExitError
	if errors.As(failed, &exit) {
		e.Code = exit.ExitCode()
	}
	var left leftRunning
	if errors.As(failed, &left) {
		e.Running = p.pid()
	}
	return e
}

// contents reads the whole file. The file's offset, which the program has moved, does not matter.
func contents(file *os.File) (string, error) {
	var text strings.Builder
	n, err := io.Copy(&text, io.NewSectionReader(file, 0, maxOutput+1))
	if err != nil {
		return "", fmt.Errorf("read its %s: %w", file.Name(), err)
	}
	if n > maxOutput {
		return text.String()[:maxOutput], fmt.Errorf("its %s is longer than %d bytes", file.Name(), maxOutput)
	}
	return text.String(), nil
}
