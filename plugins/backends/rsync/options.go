package rsync

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// options are backend_options.
type options struct {
	Path       string `mapstructure:"path" doc:"an absolute path that exists, here or on another host: [user@]host:/path"`
	Scratch    string `mapstructure:"scratch" doc:"a directory with room for a whole backup; needed to read a backup that is on another host or was stored with fake_super"`
	FakeSuper  bool   `mapstructure:"fake_super" doc:"keep owners and devices in extended attributes, for a user there who is not root"`
	SSHKey     string `mapstructure:"ssh_key" doc:"the file of the private key"`
	SSHPort    int    `mapstructure:"ssh_port"`
	KnownHosts string `mapstructure:"known_hosts" doc:"the file of known host keys"`
	AcceptNew  bool   `mapstructure:"accept_new_host_key" doc:"trust a host at its first use"`

	remote, dir string // the two parts of path: [user@]host, and the directory
}

var (
	remotePath = regexp.MustCompile(`^((?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?` +
		`(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])):(/(?:[^/].*)?)$`)
	// characters that need no quotes in rsync's -e, which knows none
	plainPath = regexp.MustCompile(`^/[A-Za-z0-9_./@+=:,-]*$`)
)

// parseOptions decodes the options, and checks what can be checked without running rsync or ssh.
func parseOptions(c backup.Config) (options, error) {
	var o options
	if err := c.Decode(&o); err != nil {
		return o, err
	}
	var wrong []error
	m := remotePath.FindStringSubmatch(o.Path)
	switch {
	case o.Path == "":
		wrong = append(wrong, ansible.Bad("path", "is missing: where are the backups to lie?").
			WithHint("backend_options=path=/srv/backup, or path=backup@host:/srv/backup"))
	case m != nil:
		o.remote, o.dir = m[1], filepath.Clean(m[2])
	case filepath.IsAbs(o.Path):
		o.dir = filepath.Clean(o.Path)
	default:
		wrong = append(wrong, ansible.Bad("path", "must be an absolute path, or [user@]host:/path"))
	}
	return o, fault.All(append(wrong, o.checkFiles())...)
}

// checkFiles checks the options that name files and directories of this host, and the port.
func (o *options) checkFiles() error {
	var wrong []error
	bad := func(name, format string, a ...any) { wrong = append(wrong, ansible.Bad(name, format, a...)) }
	if info, err := os.Stat(o.Scratch); o.Scratch != "" && (!filepath.IsAbs(o.Scratch) || err != nil || !info.IsDir()) {
		bad("scratch", "must be the absolute path of a directory that exists")
	}
	for name, path := range map[string]string{"ssh_key": o.SSHKey, "known_hosts": o.KnownHosts} {
		if info, err := os.Stat(path); path != "" &&
			(!plainPath.MatchString(path) || err != nil || !info.Mode().IsRegular()) {
			bad(name, "must be the absolute path of a file that exists, without spaces or quotes")
		}
	}
	if o.SSHPort < 0 || o.SSHPort > 65535 {
		bad("ssh_port", "must be between 1 and 65535")
	}
	return fault.All(wrong...)
}

func (o *options) overSSH() bool { return o.remote != "" }

// mustFetch reports whether a backup must be fetched before it can be presented. That is so on another host, and with
// fake_super, where the files at the place have not their own owners and modes.
func (o *options) mustFetch() bool { return o.overSSH() || o.FakeSuper }

// target returns a path below the option path, in the form that rsync takes.
func (o *options) target(elements ...string) string {
	path := filepath.Join(append([]string{o.dir}, elements...)...)
	if o.overSSH() {
		return o.remote + ":" + path
	}
	return path
}

// sshArgv returns the ssh command that rsync runs. It never asks anything, and ends if the other host no longer
// answers.
func (o *options) sshArgv() []string {
	strict := "yes"
	if o.AcceptNew {
		strict = "accept-new"
	}
	argv := []string{"ssh"}
	for _, option := range []string{
		"BatchMode=yes", "StrictHostKeyChecking=" + strict, "ConnectTimeout=30",
		"ServerAliveInterval=15", "ServerAliveCountMax=4", "ControlPath=none",
	} {
		argv = append(argv, "-o", option)
	}
	if o.SSHKey != "" {
		argv = append(argv, "-o", "IdentitiesOnly=yes", "-i", o.SSHKey)
	}
	if o.KnownHosts != "" {
		argv = append(argv, "-o", "UserKnownHostsFile="+o.KnownHosts)
	}
	if o.SSHPort != 0 {
		argv = append(argv, "-p", strconv.Itoa(o.SSHPort))
	}
	return argv
}

// sshHost returns the other host in the form that ssh takes: without the brackets that rsync needs around an address.
func (o *options) sshHost() string { return strings.NewReplacer("[", "", "]", "").Replace(o.remote) }

// transportArgs are the arguments of rsync that say how to reach the place.
func (o *options) transportArgs() []string {
	if !o.overSSH() {
		return nil
	}
	// With -s arguments are sent to the other rsync by the protocol, and not through the shell of that host.
	return []string{"-s", "-e", strings.Join(o.sshArgv(), " ")}
}
