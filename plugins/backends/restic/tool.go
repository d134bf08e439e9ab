package restic

import (
	"context"
	"regexp"
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
	config  backup.Config
	options options
	version version
}

// pulse is how often a silent restic is looked at.
const pulse = 5 * time.Second

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
	// SIGINT is what restic of every version cleans up after; SIGTERM is known since 0.17 only.
	return command.Cmd{Argv: append(argv, args...), Env: t.environ(), Limit: limit, Stop: syscall.SIGINT, Pulse: pulse}
}

// patient has restic wait for locks where it can.
func (t *tool) patient() []string {
	if t.version.has(withRetry) {
		return []string{"--retry-lock", "1m"}
	}
	return nil
}

// call runs restic for something that takes no long time; what says what for.
func (t *tool) call(ctx context.Context, what string, args ...string) (command.Output, error) {
	out, err := t.Stream(ctx, t.cmd(args...), func(string) {})
	return out, t.explain(what, err)
}

// explain turns an error of restic's into the fault it means.
func (t *tool) explain(what string, err error) error {
	return t.config.Explain(what, err, func(failed *command.Error) (fault.Code, string, string) {
		code := meaning(failed.Code, failed.Stderr)
		return code, lastWords(failed.Stderr), hint(code)
	})
}

// restic's exit codes.
const (
	exitIncomplete    = 3
	exitNoRepository  = 10 // since 0.17
	exitLocked        = 11 // since 0.17
	exitWrongPassword = 12 // since 0.17.1
)

// texts are what restic says where its exit code is 1, as before 0.17 it always is. The first that fits counts.
var texts = []struct {
	text *regexp.Regexp
	code fault.Code
}{
	{regexp.MustCompile(`wrong password or no key found`), fault.WrongPassword},
	{regexp.MustCompile(`(?i)no space left on device|disk quota exceeded|insufficient storage`), fault.RepositoryFull},
	{regexp.MustCompile(`repository is already locked`), fault.RepositoryLocked},
	// Restic asks "Is there a repository at the following location?" after any failure to read the config file.
	{regexp.MustCompile(`(?i)unable to open config file: .*(no such file|not exist|404|nosuchkey|not found)`), fault.RepositoryMissing},
	{regexp.MustCompile(`repository does not exist`), fault.RepositoryMissing},
	{regexp.MustCompile(`(?i)fusermount3?"?: executable file not found|/dev/fuse|fuse device not found|cannot locate OSXFUSE`), fault.Unsupported},
}

// meaning is the code of a failure.
func meaning(rc int, stderr string) fault.Code {
	switch rc {
	case exitNoRepository:
		return fault.RepositoryMissing
	case exitLocked:
		return fault.RepositoryLocked
	case exitWrongPassword:
		return fault.WrongPassword
	}
	for _, t := range texts {
		if t.text.MatchString(stderr) {
			return t.code
		}
	}
	return fault.CommandFailed
}

func hint(code fault.Code) string {
	switch code {
	case fault.RepositoryMissing:
		return "correct repository, or mount what it lies on; for a first backup make one with `restic init`"
	case fault.WrongPassword:
		return "password_file, or RESTIC_PASSWORD in the environment, must hold the password the repository was made with"
	case fault.RepositoryLocked:
		return "wait until the other restic has ended; `restic unlock` removes the locks of those that died"
	case fault.RepositoryFull:
		return "make room where the repository lies: keep fewer (keep), then `restic prune`"
	case fault.CommandFailed:
		return "look at stderr in the facts; the same command by hand, with the password in RESTIC_PASSWORD, says whether it lasts"
	case fault.Unsupported:
		return "install the package fuse3, or name a directory with room for a whole backup as scratch"
	}
	return ""
}

// lastWords is the line that says why restic failed: what it calls fatal, else its last.
func lastWords(stderr string) string {
	why := ""
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
		if line != "" {
			why = line
		}
	}
	if why == "" {
		return "it does not say why"
	}
	return why
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
