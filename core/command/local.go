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

// Path is where programs are looked up and what they get as PATH. The caller's
// own PATH does not count: this runs as root.
const Path = "/usr/sbin:/usr/bin:/sbin:/bin"

// Unsignalled is the environment of a program of ours that may read a backup in
// restic's mount: Go's scheduler sends its threads no signals then. restic 0.14,
// which is Debian 12's, answers a call that a signal interrupts with an I/O
// error, and a restore would fail by chance (restic, issue 3694).
const Unsignalled = "GODEBUG=asyncpreemptoff=1"

const (
	maxOutput = 64 << 20        // bytes read of a program's output
	killLimit = 5 * time.Second // wait for a killed program to be gone
)

// Local runs commands on this host.
type Local struct{}

// Run runs c and waits for it. Each program gets a process group of its own, so
// that a Ctrl-C on the terminal reaches this process only.
func (Local) Run(ctx context.Context, c Cmd) (Output, error) {
	p, err := prepare(ctx, c)
	if err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	defer p.close()
	if err := p.open(); err != nil {
		return Output{}, &Error{Argv: c.Argv, Code: -1, Err: err}
	}
	failpoint.Hit("command." + p.name + ".before")
	start := time.Now()
	err = p.run(ctx, c)
	return p.finish(c, Output{Elapsed: time.Since(start)}, err)
}

// process is a command with the files it reads and writes. They are memory
// files, not pipes: a program that outlives this one must not die of SIGPIPE,
// and one that leaves a daemon behind (lvconvert -b) must not keep us waiting
// for the daemon's end of a pipe.
type process struct {
	name                  string // as failpoints know it
	cmd                   *exec.Cmd
	stdin, stdout, stderr *os.File
}

func prepare(ctx context.Context, c Cmd) (*process, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("not started: %w", whyEnded(ctx))
	}
	path, err := lookup(c)
	if err != nil {
		return nil, err
	}
	p := &process{
		name: placeName(path, c.Argv),
		cmd: &exec.Cmd{
			Path:        path,
			Args:        c.Argv,
			Env:         environ(c.Env),
			Dir:         "/", // our own directory may lie on what is unmounted
			SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		},
	}
	if err := p.feed(c.Stdin); err != nil {
		p.close()
		return nil, err
	}
	if c.Hold != nil {
		p.cmd.Stdin = c.Hold
	}
	return p, nil
}

// placeName is the program's name in failpoints; of lvm(8), which is many
// programs in one, that of the command it is run for.
func placeName(path string, argv []string) string {
	name := filepath.Base(path)
	if name == "lvm" && len(argv) > 1 {
		return argv[1]
	}
	return name
}

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

// environ is all that a program gets. LVM warns of every open descriptor that it
// did not open itself unless told not to (lvm(8)).
func environ(more []string) []string {
	return slices.Concat([]string{"LC_ALL=C", "PATH=" + Path, "HOME=/root", "LVM_SUPPRESS_FD_WARNINGS=1"}, more)
}

func (p *process) open() (err error) {
	if p.stdout, err = memory("stdout"); err != nil {
		return err
	}
	if p.stderr, err = memory("stderr"); err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	return nil
}

func (p *process) feed(stdin []byte) (err error) {
	if stdin == nil {
		return nil
	}
	if p.stdin, err = memory("stdin"); err != nil {
		return err
	}
	p.cmd.Stdin = p.stdin
	if _, err = p.stdin.Write(stdin); err != nil {
		return err
	}
	_, err = p.stdin.Seek(0, io.SeekStart)
	return err
}

func memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (p *process) close() {
	for _, file := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if file != nil {
			file.Close()
		}
	}
}

// run starts the program and returns when it has ended, or is left running.
func (p *process) run(ctx context.Context, c Cmd) error {
	if err := p.cmd.Start(); err != nil {
		return err
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
		return p.kill(ended, whyEnded(ctx))
	case <-timer.C:
	}
	late := fmt.Errorf("no end after %v: %w", limit, context.DeadlineExceeded)
	if c.Changes {
		return leftRunning{fmt.Errorf("%w; process %d was left to finish, because ending it halfway does damage", late, p.pid())}
	}
	return p.kill(ended, late)
}

// kill ends the program and whatever it started in its process group. A program
// that waits for a suspended device cannot be killed until the device goes on.
func (p *process) kill(ended <-chan error, why error) error {
	// An error means that the group is gone, which is what was wanted.
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

func (p *process) pid() int { return p.cmd.Process.Pid }

// leftRunning marks a program that goes on without us.
type leftRunning struct{ error }

func (e leftRunning) Unwrap() error { return e.error }

// whyEnded says how ctx ended, and the cause where it has one of its own.
func whyEnded(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// finish reads what the program said and types the error.
func (p *process) finish(c Cmd, out Output, failed error) (Output, error) {
	var err1, err2 error
	out.Stdout, err1 = contents(p.stdout)
	out.Stderr, err2 = contents(p.stderr)
	if failed == nil {
		failed = errors.Join(err1, err2)
	}
	return out, p.typed(c, out, failed)
}

// typed returns failed as an *Error, or nil.
func (p *process) typed(c Cmd, out Output, failed error) error {
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

// contents reads from the start, whatever offset the program left.
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
