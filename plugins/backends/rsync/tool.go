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
	limit = 10 * time.Minute // for what carries no data
	pulse = 5 * time.Second  // how often a silent rsync is looked at

	// lull is how late its progress may come. It says a line for each file, and to be woken for each cost a tenth of the
	// processor time that the copying took.
	lull = time.Second
)

// everything is what a tree keeps: all metadata, hard links, ACLs, extended attributes, holes. Times count to the
// nanosecond (--modify-window): by default a change within the second of the last backup is no change to rsync, and the
// time of a directory not worth correcting.
var everything = []string{"-aHAXS", "--numeric-ids", "--modify-window=-1", "--info=progress2,stats2", "--no-h", "--outbuf=L"}

func (t *tool) cmd(args ...string) command.Cmd {
	argv := slices.Concat([]string{"rsync"}, t.options.transport(), args)
	return command.Cmd{Argv: argv, Env: t.config.Environ(), Limit: limit, Pulse: pulse}
}

// copying is a command that copies a tree and says how it gets on.
func (t *tool) copying(args ...string) command.Cmd {
	cmd := t.cmd(args...)
	cmd.Limit = 0 // the run that asked for the backup bounds it
	cmd.Lull = lull
	return cmd
}

// call runs rsync for something that takes no long time; what says what for.
func (t *tool) call(ctx context.Context, what string, args ...string) error {
	_, err := t.Stream(ctx, t.cmd(args...), func(string) {})
	return t.explain(what, err)
}

// super are the arguments of a place where we are not root.
func (t *tool) super() []string {
	if !t.options.FakeSuper {
		return nil
	}
	return []string{"-M--fake-super"}
}

// superFrom are those that read from there. A local copy has the place on its own side (rsync(1), --fake-super).
func (t *tool) superFrom() []string {
	if t.options.FakeSuper && !t.options.overSSH() {
		return []string{"--fake-super", "-M--super"}
	}
	return t.super()
}

// explain turns an error of rsync's or ssh's into the fault it means.
func (t *tool) explain(what string, err error) error {
	return t.config.Explain(what, err, func(failed *command.Error) (fault.Code, string, string) {
		code, hint := meaning(failed.Code, failed.Stderr)
		return code, why(failed.Stderr), hint
	})
}

// rsync's exit codes (rsync(1), EXIT VALUES).
const (
	exitPartial  = 23
	exitVanished = 24
	exitSSH      = 255
)

var (
	full    = regexp.MustCompile(`(?i)no space left on device|disk quota exceeded`)
	missing = regexp.MustCompile(`change_dir#?\d? "[^"]*" (\(in [^)]*\) )?failed: No such file or directory`)
	absent  = regexp.MustCompile(`rsync: (command )?not found|remote command not found|command not found: rsync`)
	notIn   = regexp.MustCompile(`(?m)^ssh: |Host key verification failed|Permission denied \(`)
	noXattr = regexp.MustCompile(`(xattr|acl).*Operation not supported`)
)

// meaning is the code of a failure, and what to do.
func meaning(rc int, stderr string) (fault.Code, string) {
	switch {
	case full.MatchString(stderr):
		return fault.RepositoryFull, "make room where the backups lie, or keep fewer"
	case missing.MatchString(stderr):
		return fault.RepositoryMissing, "correct path, or mount what it lies on; for a first backup make the directory"
	case absent.MatchString(stderr):
		return fault.Unsupported, "install rsync on the other host"
	case noXattr.MatchString(stderr):
		return fault.Unsupported, "the backups must lie on a file system that keeps extended attributes and ACLs"
	case rc == exitSSH || notIn.MatchString(stderr):
		return fault.CommandFailed, "`ssh` must log in there as root of this host without being asked: see ssh_key, known_hosts and accept_new_host_key"
	}
	return fault.CommandFailed, "look at stderr in the facts"
}

// why is the line that says what went wrong: rsync's or ssh's first, since what follows are consequences.
func why(stderr string) string {
	last := "it does not say why"
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Warning: ") {
			continue
		}
		if strings.HasPrefix(line, "rsync: ") || full.MatchString(line) {
			return line
		}
		if last = line; strings.HasPrefix(line, "ssh: ") || strings.Contains(line, "Permission denied") {
			return line
		}
	}
	return last
}
