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
	Scratch    string `mapstructure:"scratch" doc:"a directory with room for a whole backup; it takes one to read what lies on another host, or was stored with fake_super"`
	FakeSuper  bool   `mapstructure:"fake_super" doc:"keep owners and devices in extended attributes there, for a user who is not root"`
	SSHKey     string `mapstructure:"ssh_key" doc:"the file of the private key"`
	SSHPort    int    `mapstructure:"ssh_port"`
	KnownHosts string `mapstructure:"known_hosts" doc:"the file of known host keys"`
	AcceptNew  bool   `mapstructure:"accept_new_host_key" doc:"trust a host at its first use"`

	remote, dir string // path, taken apart
}

var (
	remotePath = regexp.MustCompile(`^((?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])):(/(?:[^/].*)?)$`)
	plainPath  = regexp.MustCompile(`^/[A-Za-z0-9_./@+=:,-]*$`) // what rsync's -e takes without a way to quote it
)

// read decodes the options and checks what can be checked without the tools.
func read(c backup.Config) (options, error) {
	var o options
	if err := c.Decode(&o); err != nil {
		return o, err
	}
	var wrong []error
	bad := func(name, format string, a ...any) { wrong = append(wrong, ansible.Bad(name, format, a...)) }
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
		bad("path", "must be an absolute path, or [user@]host:/path")
	}
	if info, err := os.Stat(o.Scratch); o.Scratch != "" && (!filepath.IsAbs(o.Scratch) || err != nil || !info.IsDir()) {
		bad("scratch", "must be the absolute path of a directory that is there")
	}
	for name, path := range map[string]string{"ssh_key": o.SSHKey, "known_hosts": o.KnownHosts} {
		if info, err := os.Stat(path); path != "" && (!plainPath.MatchString(path) || err != nil || !info.Mode().IsRegular()) {
			bad(name, "must be the absolute path of a file that is there, without spaces or quotes")
		}
	}
	if o.SSHPort < 0 || o.SSHPort > 65535 {
		bad("ssh_port", "must be between 1 and 65535")
	}
	return o, fault.All(wrong...)
}

func (o *options) overSSH() bool { return o.remote != "" }

// laidOut says whether a backup must be fetched to be read as it was.
func (o *options) laidOut() bool { return o.overSSH() || o.FakeSuper }

// at returns the place of a path below path as rsync takes it.
func (o *options) at(elements ...string) string {
	path := filepath.Join(append([]string{o.dir}, elements...)...)
	if o.overSSH() {
		return o.remote + ":" + path
	}
	return path
}

// ssh is the command that rsync runs. It never asks anything, and notices when the other side is gone.
func (o *options) ssh() []string {
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

// sshHost is the other host as ssh takes it: an address without the brackets that rsync wants.
func (o *options) sshHost() string { return strings.NewReplacer("[", "", "]", "").Replace(o.remote) }

// transport are rsync's arguments that say how to reach the place.
func (o *options) transport() []string {
	if !o.overSSH() {
		return nil
	}
	// -s: arguments go to the other rsync by the protocol, not through that host's shell.
	return []string{"-s", "-e", strings.Join(o.ssh(), " ")}
}
