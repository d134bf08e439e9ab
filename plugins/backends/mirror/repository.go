package mirror

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// repository is the directory that holds all backups, of all hosts.
type repository struct {
	path    string
	scratch string // an empty directory
	ownHost string // Config.Host, the host for which the backend was called; "": not known
	machine string // Config.Machine
}

// options are backend_options.
type options struct {
	Path string `mapstructure:"path" doc:"the directory that holds the backups; it must exist"`
}

// parseOptions decodes and checks the options. It does not look at the directory.
func parseOptions(c backup.Config) (repository, error) {
	var o options
	if err := c.Decode(&o); err != nil {
		return repository{}, err
	}
	r := repository{path: filepath.Clean(o.Path), scratch: c.Scratch, ownHost: c.Host, machine: c.Machine}
	var wrong []error
	if o.Path == "" {
		wrong = append(wrong, ansible.Bad("path", "is missing: in which directory are the backups to be kept?").
			WithHint("backend_options=path=/srv/backup"))
	} else if !filepath.IsAbs(o.Path) {
		wrong = append(wrong, ansible.Bad("path", "must be an absolute path"))
	}
	return r, fault.All(wrong...)
}

// open is parseOptions, and fails with repository_missing if the directory does not exist. The directory is never made,
// because its file system may only not be mounted.
func open(c backup.Config) (repository, error) {
	r, err := parseOptions(c)
	if err != nil {
		return repository{}, err
	}
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return repository{}, fault.New(fault.RepositoryMissing, "there is no directory %s", r.path).
			WithHint("mount what it lies on, or create it: install -d -m 0700 %s", r.path)
	}
	if err != nil {
		return repository{}, repositoryError("look for the repository", err)
	}
	return r, nil
}

// checkWritable tries whether a Store could begin: it takes the lock and writes something that it removes again. The
// warnings are those of Backend.Check.
func (r repository) checkWritable() ([]string, error) {
	if err := backup.NotOfAnotherTool(r.path); err != nil {
		return nil, err
	}
	hosts, err := r.hostDirs("")
	if err != nil {
		return nil, err
	}
	host := r.ownHost
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return nil, repositoryError("look for this host's backups", err)
		}
	}
	if err := backup.RefuseLink(filepath.Join(r.path, host)); err != nil {
		return nil, err
	}
	for _, s := range hosts {
		if s.host != host {
			continue
		}
		unlock, err := s.lock()
		if err != nil {
			return nil, err
		}
		unlock()
		if _, err := s.refuseOtherMachine(); err != nil {
			return nil, err
		}
	}
	lacks, err := backup.Probe(r.path)
	if err != nil {
		return nil, repositoryError("write to the repository", err)
	}
	return lacks.Verdict(r.path)
}

// makeHostDir returns the directory of a host's backups, and makes it if it does not exist.
func (r repository) makeHostDir(host string) (hostDir, error) {
	if !isSafeName(host) {
		return hostDir{}, fault.New(fault.BadArguments, "host %q cannot be the name of a directory", host)
	}
	s := hostDir{repository: r, host: host, dir: filepath.Join(r.path, host)}
	err := os.Mkdir(s.dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return hostDir{}, repositoryError("make the host's directory", err)
	}
	return s, backup.RefuseLink(s.dir)
}

// hostDirs returns the existing directory of a host, or those of all hosts if host is "". The directory of a host that
// is asked for must not be a symbolic link: to leave it out would say that the host has no backups.
func (r repository) hostDirs(host string) ([]hostDir, error) {
	if isSafeName(host) {
		if err := backup.RefuseLink(filepath.Join(r.path, host)); err != nil {
			return nil, err
		}
	}
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return nil, repositoryError("list the hosts", err)
	}
	var all []hostDir
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && isSafeName(name) && (host == "" || host == name) {
			all = append(all, hostDir{repository: r, host: name, dir: filepath.Join(r.path, name)})
		}
	}
	return all, nil
}

// find returns the host directory that has the backup with this ID. Fault: not_found.
func (r repository) find(id string) (hostDir, error) {
	hosts, err := r.hostDirs("")
	if err != nil {
		return hostDir{}, err
	}
	for _, s := range hosts {
		if _, err := os.Lstat(s.recordPath(id)); err == nil && isSafeName(id) {
			return s, nil
		}
	}
	return hostDir{}, r.notFound(id)
}

func (r repository) notFound(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in %s", id, r.path)
}

// isSafeName reports whether a host's name or an ID can be used as the name of a file. Names that begin with a dot are
// for the backend's own files.
func isSafeName(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && name[0] != '-' && !strings.ContainsAny(name, "/\x00\n")
}

// latestFirst sorts backups by their time, the latest first.
func latestFirst(all []backup.Stored) {
	slices.SortStableFunc(all, func(a, b backup.Stored) int {
		if n := b.Time.Compare(a.Time); n != 0 {
			return n
		}
		return strings.Compare(b.ID, a.ID)
	})
}

// repositoryError returns the fault for an error of the repository's file system, and nil for nil. action is a verb
// phrase, for the message.
func repositoryError(action string, err error) error {
	if err == nil {
		return nil
	}
	if durable.IsFull(err) || errors.Is(err, fault.NoSpace) {
		return fault.New(fault.RepositoryFull, "%s: %w", action, err).
			WithHint("make room where the repository lies, or keep fewer backups (keep)")
	}
	code := fault.Of(err).Code
	if code == fault.Internal || code == fault.CommandFailed {
		code = fault.BackendFailed
	}
	return fault.New(code, "%s: %w", action, err)
}
