package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-plugin"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/trust"
)

// Find returns the program of a backend that is not built in: the file called name in Dir. The program runs as root, so
// nobody else may be able to change it. sha256 is its SHA-256 in 64 hexadecimal digits, or empty, which means that it
// is not checked.
//
// Faults: backend_untrusted if the file, its directory or a parent does not belong to root or may be written by others,
// or if the SHA-256 is not that of the program; not_found; bad_arguments.
func Find(name, sha256 string) (Program, error) { return find(Dir, name, sha256) }

func find(dir, name, sum string) (Program, error) {
	if err := checkArguments(name, sum); err != nil {
		return Program{}, err
	}
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Program{}, notFound(dir, name)
	}
	if err != nil {
		return Program{}, fault.New(fault.BackendUntrusted, "backend %s: %w", name, err)
	}
	p := Program{Name: name, Argv: []string{path}, SHA256: strings.ToLower(sum)}
	if err := fault.All(checkProgram(path, info), trustFault(trust.Dir(dir)), p.verify()); err != nil {
		return Program{}, err
	}
	return p, nil
}

// checkArguments refuses a name that would lead out of the directory, and a checksum that is not a SHA-256.
func checkArguments(name, sum string) error {
	if name == "" || strings.ContainsAny(name, "/\x00") || name[0] == '.' || name[0] == '-' {
		return fault.New(fault.BadArguments, "backend %q is not the plain name of a file", name).
			WithHint("put the program into %s and name it without the directory", Dir)
	}
	if raw, err := hex.DecodeString(sum); err != nil || sum != "" && len(raw) != sha256.Size {
		return fault.New(fault.BadArguments, "sha256 %q is not 64 hexadecimal digits", sum).
			WithHint("sha256sum %s prints it", filepath.Join(Dir, name))
	}
	return nil
}

// notFound returns the fault not_found, which names the backends that are in dir.
func notFound(dir, name string) error {
	installed := []string{}
	entries, _ := os.ReadDir(dir) // if dir cannot be read, none are named
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			installed = append(installed, entry.Name())
		}
	}
	f := fault.New(fault.NotFound, "there is no backend %q in %s", name, dir).With("backends", installed)
	if len(installed) == 0 {
		return f.WithHint("mirror, rsync and restic are built in; any other is installed there")
	}
	return f.WithHint("mirror, rsync and restic are built in; there are: %s", strings.Join(installed, ", "))
}

// checkProgram refuses what is not an executable regular file that only root can change.
func checkProgram(path string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return untrusted("%s is a symbolic link", path).WithHint("put the program itself there")
	case !info.Mode().IsRegular():
		return untrusted("%s is not a regular file", path)
	case info.Mode()&0o111 == 0:
		return untrusted("%s is not executable", path).WithHint("chmod 0755 %s", path)
	}
	return trustFault(trust.File(path, info))
}

// trustFault turns an error of package trust into backend_untrusted. It returns nil for nil.
func trustFault(err error) error {
	changeable := (*trust.Error)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &changeable):
		return untrusted("%w", err).WithHint("%s, and look at what it does first", changeable.Remedy())
	}
	return untrusted("%w", err)
}

// verify compares the program with its checksum, if it has one.
func (p Program) verify() error {
	if p.SHA256 == "" {
		return nil
	}
	want, err := hex.DecodeString(p.SHA256)
	if err != nil {
		return fault.New(fault.BadArguments, "sha256 %q is not 64 hexadecimal digits", p.SHA256)
	}
	same, err := (&plugin.SecureConfig{Checksum: want, Hash: sha256.New()}).Check(p.Argv[0])
	if err != nil {
		return untrusted("checksum of %s: %w", p.Argv[0], err)
	}
	if !same {
		return untrusted("%s is not the program with the sha256 %s", p.Argv[0], p.SHA256).
			WithHint("if it was changed on purpose, give the new one: sha256sum %s", p.Argv[0])
	}
	return nil
}

func untrusted(format string, a ...any) *fault.Error {
	return fault.New(fault.BackendUntrusted, format, a...)
}
