package rsync

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// tool is rsync with one configuration.
type tool struct {
	command.Streamer
	config  backup.Config
	options options
	version string
}

const (
	callLimit     = 10 * time.Minute // for calls that copy no trees
	pulseInterval = 5 * time.Second  // how often a silent rsync is checked for being at work

	// maxLineDelay is how long lines of rsync's output may be held back. rsync writes a line for each file; to wake this
	// program for each of them took a tenth of the processor time of the copying.
	maxLineDelay = time.Second
)

// preserveArgs returns the arguments that preserve all metadata, hard links, ACLs, extended attributes and holes. Times
// are compared to the nanosecond (--modify-window=-1). By default rsync ignores differences of less than a second: it
// would miss a change in the second of the last backup, and would not correct the mtime of a directory.
//
// rsync copies the attributes user.rsync.*, which a place of --fake-super has, only if -X is there twice, and not
// together with --fake-super (rsync(1)).
func (o *options) preserveArgs() []string {
	args := []string{"-aHAXS", "--numeric-ids", "--modify-window=-1", "--info=progress2,stats2", "--no-h", "--outbuf=L"}
	if o.FakeSuper {
		return args
	}
	return append(args, "-X")
}

func (t *tool) cmd(args ...string) command.Cmd {
	argv := slices.Concat([]string{"rsync"}, t.options.transportArgs(), args)
	return command.Cmd{Argv: argv, Env: t.config.Environ(), Limit: callLimit, BusyCheck: pulseInterval}
}

// copyCmd returns an rsync command that copies a tree and writes its progress.
func (t *tool) copyCmd(args ...string) command.Cmd {
	cmd := t.cmd(args...)
	cmd.Limit = 0 // the run that called the backend has a limit of its own
	cmd.MaxDelay = maxLineDelay
	return cmd
}

// call runs rsync for something that takes no long time. action is a verb phrase, for messages.
func (t *tool) call(ctx context.Context, action string, args ...string) error {
	_, err := t.Stream(ctx, t.cmd(args...), func(string) {})
	return t.explain(action, err)
}

// superArgs are the arguments for writing to a place where the user is not root.
func (t *tool) superArgs() []string {
	if !t.options.FakeSuper {
		return nil
	}
	return []string{"-M--fake-super"}
}

// superFromArgs are the arguments for reading from such a place. For a local directory the option applies to the
// sending side, which is this rsync itself (rsync(1), --fake-super).
func (t *tool) superFromArgs() []string {
	if t.options.FakeSuper && !t.options.overSSH() {
		return []string{"--fake-super", "-M--super"}
	}
	return t.superArgs()
}

// explain turns an error of rsync or ssh into a fault.
func (t *tool) explain(action string, err error) error {
	return t.config.Explain(action, err, func(failed *command.Error) (fault.Code, string, string) {
		code, hint := codeAndHint(failed.Code, failed.Stderr)
		return code, reason(failed.Stderr), hint
	})
}

// rsync's exit codes (rsync(1), EXIT VALUES).
const (
	exitPartial  = 23
	exitVanished = 24
	exitSSH      = 255
)

var (
	fullText    = regexp.MustCompile(`(?i)no space left on device|disk quota exceeded`)
	missingText = regexp.MustCompile(`change_dir#?\d? "[^"]*" (\(in [^)]*\) )?failed: No such file or directory`)
	noRsyncText = regexp.MustCompile(`rsync: (command )?not found|remote command not found|command not found: rsync`)
	hostKeyText = regexp.MustCompile(`(?m)` + changedKeyText + `|^Host key verification failed`)
	closedText  = regexp.MustCompile(`^rsync: (\[\w+\] )?connection unexpectedly closed`)
	loginText   = regexp.MustCompile(`(?m)^ssh: |Host key verification failed|Permission denied \(`)
	noXattrText = regexp.MustCompile(`(xattr|acl).*Operation not supported`)
)

// codeAndHint returns the code of a failure of rsync, and a hint at what to do.
func codeAndHint(rc int, stderr string) (fault.Code, string) {
	switch {
	case fullText.MatchString(stderr):
		return fault.RepositoryFull, "make room where the backups lie, or keep fewer"
	case missingText.MatchString(stderr):
		return fault.RepositoryMissing, missingHint
	case noRsyncText.MatchString(stderr):
		return fault.Unsupported, "install rsync on the other host"
	case noXattrText.MatchString(stderr):
		return fault.Unsupported, "the backups must lie on a file system that keeps extended attributes and ACLs"
	case strings.Contains(stderr, changedKeyText):
		return fault.CommandFailed, "another host may answer in its place. If it was installed anew, put its new key into " +
			"known_hosts; accept_new_host_key does not accept one that has changed"
	case hostKeyText.MatchString(stderr):
		return fault.CommandFailed, "put the key of the other host into known_hosts, or trust it at first use with " +
			"accept_new_host_key=true"
	case rc == exitSSH || loginText.MatchString(stderr):
		return fault.CommandFailed, "root of this host must be able to log in there by ssh without being asked: " +
			"see ssh_key, known_hosts and accept_new_host_key"
	}
	return fault.CommandFailed, "look at stderr in the facts"
}

// changedKeyText is what ssh writes if the other host has another key than known_hosts has of it.
const changedKeyText = "REMOTE HOST IDENTIFICATION HAS CHANGED"

// reason returns the line that says what went wrong. It is the first one from rsync or ssh: the following ones are
// consequences. That the connection was closed is a consequence, too; most of what ssh says before has no prefix by
// which it can be told from the banner of the other host, so both lines are returned.
func reason(stderr string) string {
	const nothing = "it does not say why"
	last := nothing
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Warning: ") {
			continue
		}
		if closedText.MatchString(line) && last != nothing {
			return line + ", after: " + last
		}
		if m := hostKeyText.FindString(line); m != "" {
			return m
		}
		if strings.HasPrefix(line, "rsync: ") || fullText.MatchString(line) {
			return line
		}
		if last = line; strings.HasPrefix(line, "ssh: ") || strings.Contains(line, "Permission denied") {
			return line
		}
	}
	return last
}
