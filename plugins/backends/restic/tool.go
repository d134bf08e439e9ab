package restic

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// tool is restic with one configuration.
type tool struct {
	command.Streamer
	installed
	config  backup.Config
	options options
}

// pulseInterval is how often a silent restic is checked for being at work.
const pulseInterval = 5 * time.Second

func (t *tool) cmd(args ...string) command.Cmd {
	argv := []string{"restic"}
	if t.options.Cache == "" {
		argv = append(argv, "--no-cache")
	} else {
		argv = append(argv, "--cache-dir", t.options.Cache)
	}
	if t.options.LimitUpload > 0 {
		argv = append(argv, "--limit-upload", strconv.Itoa(t.options.LimitUpload))
	}
	if t.options.LimitDownload > 0 {
		argv = append(argv, "--limit-download", strconv.Itoa(t.options.LimitDownload))
	}
	// Every version of restic cleans up after SIGINT, but only those since 0.17 do so after SIGTERM.
	return command.Cmd{Argv: append(argv, args...), Env: t.environ(), Limit: callLimit, Stop: syscall.SIGINT,
		BusyCheck: pulseInterval}
}

// retryLockArgs are the arguments that make restic wait for locks, if it can do that.
func (v version) retryLockArgs() []string {
	if v.atLeast(withRetry) {
		return []string{"--retry-lock", "1m"}
	}
	return nil
}

// call runs restic for something that takes no long time. action is a verb phrase, for messages.
func (t *tool) call(ctx context.Context, action string, args ...string) (command.Output, error) {
	out, err := t.Stream(ctx, t.cmd(args...), func(string) {})
	return out, t.explain(action, err)
}

// explain turns an error of restic into a fault.
func (t *tool) explain(action string, err error) error {
	return t.config.Explain(action, err, func(failed *command.Error) (fault.Code, string, string) {
		code := faultCode(failed.Code, failed.Stderr)
		return code, reason(failed.Stderr), hintFor(code)
	})
}

// restic's exit codes.
const (
	exitIncomplete    = 3
	exitNoRepository  = 10 // since 0.17
	exitLocked        = 11 // since 0.17
	exitWrongPassword = 12 // since 0.17.1
)

// errorTexts are texts in restic's stderr that say what failed if the exit code is 1, which it always is before 0.17.
// The first match counts.
var errorTexts = []struct {
	text *regexp.Regexp
	code fault.Code
}{
	{regexp.MustCompile(`wrong password or no key found`), fault.WrongPassword},
	{regexp.MustCompile(`(?i)no space left on device|disk quota exceeded|insufficient storage`), fault.RepositoryFull},
	{regexp.MustCompile(`repository is already locked`), fault.RepositoryLocked},
	// The text "Is there a repository at the following location?" is no help: restic writes it after every failure to
	// read the config file.
	{regexp.MustCompile(`(?i)unable to open config file: .*(no such file|not exist|404|nosuchkey|not found)`),
		fault.RepositoryMissing},
	{regexp.MustCompile(`repository does not exist`), fault.RepositoryMissing},
	{regexp.MustCompile(`(?i)fusermount3?"?: executable file not found|/dev/fuse|fuse device not found|cannot locate ` +
		`OSXFUSE`), fault.Unsupported},
}

// faultCode returns the code of the fault for a failure of restic.
func faultCode(rc int, stderr string) fault.Code {
	switch rc {
	case exitNoRepository:
		return fault.RepositoryMissing
	case exitLocked:
		return fault.RepositoryLocked
	case exitWrongPassword:
		return fault.WrongPassword
	}
	for _, t := range errorTexts {
		if t.text.MatchString(stderr) {
			return t.code
		}
	}
	return fault.CommandFailed
}

// hintFor returns a hint at what to do about a failure.
func hintFor(code fault.Code) string {
	switch code {
	case fault.RepositoryMissing:
		return "correct repository, or mount what it lies on; for a first backup make one with `restic init`"
	case fault.WrongPassword:
		return "password_file, or RESTIC_PASSWORD in the environment, must hold the password the repository was made with"
	case fault.RepositoryLocked:
		return "wait until the other restic has ended; if the one that the lock names is gone, and no restic is at work on " +
			"a machine of that name, `restic unlock` removes its lock"
	case fault.RepositoryFull:
		return "make room where the repository lies: keep fewer (keep), then `restic prune`"
	case fault.CommandFailed:
		return "look at stderr in the facts; the same command by hand, with the password in RESTIC_PASSWORD, says whether " +
			"it lasts"
	case fault.Unsupported:
		return "install the package fuse3, or name a directory with room for a whole backup as scratch"
	}
	return ""
}

// sshLine begins a line of ssh, which restic starts for a repository by sftp and whose stderr it passes on.
const sshLine = "subprocess ssh: "

// reason returns the line of stderr that says why restic failed: the one that restic calls fatal, or else one of
// errorTexts, or else the last one.
// If ssh has ended, restic only says that the connection is closed, so the last line of ssh follows.
func reason(stderr string) string {
	why := fatalLine(stderr)
	if !strings.Contains(why, "sftp session") {
		return why
	}
	for _, line := range slices.Backward(strings.Split(stderr, "\n")) {
		if by, ok := strings.CutPrefix(strings.TrimSpace(line), sshLine); ok && !strings.Contains(why, by) {
			return why + ", after: " + by
		}
	}
	return why
}

func fatalLine(stderr string) string {
	why, known := "", false
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if l, ok := parseLine(line); ok {
			if l.Type == "exit_error" {
				return firstLine(strings.TrimPrefix(l.Message, "Fatal: "))
			}
			continue
		}
		if fatal, ok := strings.CutPrefix(line, "Fatal: "); ok {
			return fatal
		}
		if line != "" && !known {
			why, known = line, isErrorText(line)
		}
	}
	if why == "" {
		return "it does not say why"
	}
	return why
}

func isErrorText(line string) bool {
	for _, t := range errorTexts {
		if t.text.MatchString(line) {
			return true
		}
	}
	return false
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
