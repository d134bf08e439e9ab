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
	asking  string // the host that asks; "": not said
}

// options are backend_options.
type options struct {
	Path string `mapstructure:"path" doc:"the directory that holds the backups; it must be there"`
}

// read checks the options and touches nothing.
func read(c backup.Config) (repository, error) {
	var o options
	if err := c.Decode(&o); err != nil {
		return repository{}, err
	}
	r := repository{path: filepath.Clean(o.Path), scratch: c.Scratch, asking: c.Host}
	var wrong []error
	if o.Path == "" {
		wrong = append(wrong, ansible.Bad("path", "is missing: in which directory are the backups to be kept?").
			WithHint("backend_options=path=/srv/backup"))
	} else if !filepath.IsAbs(o.Path) {
		wrong = append(wrong, ansible.Bad("path", "must be an absolute path"))
	}
	return r, fault.All(wrong...)
}

// open also wants the repository to be there. It is never made: a path that is not there may be one that is not mounted.
func open(c backup.Config) (repository, error) {
	r, err := read(c)
	if err != nil {
		return repository{}, err
	}
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return repository{}, fault.New(fault.RepositoryMissing, "there is no directory %s", r.path).
			WithHint("mount what it lies on, or create it: install -d -m 0700 %s", r.path)
	}
	if err != nil {
		return repository{}, failed("look for the repository", err)
	}
	return r, nil
}

// check finds out by doing whether a Store could begin.
func (r repository) check() ([]string, error) {
	if err := backup.NotOfAnotherTool(r.path); err != nil {
		return nil, err
	}
	shelves, err := r.shelves("")
	if err != nil {
		return nil, err
	}
	own := r.asking
	if own == "" {
		if own, err = os.Hostname(); err != nil {
			return nil, failed("look for this host's backups", err)
		}
	}
	if err := backup.NoLink(filepath.Join(r.path, own)); err != nil {
		return nil, err
	}
	for _, s := range shelves {
		if s.host != own {
			continue
		}
		unlock, err := s.lock()
		if err != nil {
			return nil, err
		}
		unlock()
	}
	lacks, err := backup.Probe(r.path)
	if err != nil {
		return nil, failed("write to the repository", err)
	}
	return lacks.Verdict(r.path)
}

// shelf returns the place of a host, which it makes.
func (r repository) shelf(host string) (shelf, error) {
	if !safe(host) {
		return shelf{}, fault.New(fault.BadArguments, "host %q cannot be the name of a directory", host)
	}
	s := shelf{repository: r, host: host, dir: filepath.Join(r.path, host)}
	err := os.Mkdir(s.dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return shelf{}, failed("make the host's directory", err)
	}
	return s, backup.NoLink(s.dir)
}

// shelves returns the places of the host, or of all if it is "". None is made.
func (r repository) shelves(host string) ([]shelf, error) {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return nil, failed("list the hosts", err)
	}
	var all []shelf
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && safe(name) && (host == "" || host == name) {
			all = append(all, shelf{repository: r, host: name, dir: filepath.Join(r.path, name)})
		}
	}
	return all, nil
}

// find returns where the backup of that ID is.
func (r repository) find(id string) (shelf, error) {
	shelves, err := r.shelves("")
	if err != nil {
		return shelf{}, err
	}
	for _, s := range shelves {
		if _, err := os.Lstat(s.record(id)); err == nil && safe(id) {
			return s, nil
		}
	}
	return shelf{}, r.unknown(id)
}

func (r repository) unknown(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in %s", id, r.path)
}

// safe reports whether a name of others can be that of a file here. Our own files begin with a dot.
func safe(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && name[0] != '-' && !strings.ContainsAny(name, "/\x00\n")
}

func newestFirst(all []backup.Stored) {
	slices.SortStableFunc(all, func(a, b backup.Stored) int {
		if n := b.Time.Compare(a.Time); n != 0 {
			return n
		}
		return strings.Compare(b.ID, a.ID)
	})
}

// failed is what the repository's file system said no to.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	if durable.Full(err) || errors.Is(err, fault.NoSpace) {
		return fault.New(fault.RepositoryFull, "%s: %w", what, err).
			WithHint("make room where the repository lies, or keep fewer backups (keep)")
	}
	code := fault.Of(err).Code
	if code == fault.Internal || code == fault.CommandFailed {
		code = fault.BackendFailed
	}
	return fault.New(code, "%s: %w", what, err)
}
