package trust

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDir(t *testing.T) {
	const writable = " may be written by others than root "
	const sticky = os.ModeSticky
	for name, test := range map[string]struct {
		change func(dir string) error
		want   string // at the end of the error; empty: no error
	}{
		"only root can write": {func(string) error { return nil }, ""},
		"missing":             {os.Remove, ""},
		"writable for all":    {func(d string) error { return os.Chmod(d, 0o757) }, "own" + writable + "(mode 0757)"},
		"sticky": {
			func(d string) error { return os.Chmod(d, 0o777|sticky) }, "own" + writable + "(mode 0777)",
		},
		"other owner": {func(d string) error { return os.Chown(d, 1234, 0) }, "own belongs to user 1234, not to root"},
		"parent writable for all": {
			func(d string) error { return os.Chmod(filepath.Dir(d), 0o777) }, "parent" + writable + "(mode 0777)",
		},
		"sticky parent": {func(d string) error { return os.Chmod(filepath.Dir(d), 0o777|sticky) }, ""},
		"missing in sticky parent": {
			func(d string) error {
				return errors.Join(os.Remove(d), os.Chmod(filepath.Dir(d), 0o1777|sticky))
			}, "parent" + writable + "(mode 0777)",
		},
		"link to a good directory": {func(d string) error { return replaceByLink(d, 0o755) }, ""},
		"link to a directory that is writable for all": {
			func(d string) error { return replaceByLink(d, 0o777) }, "target" + writable + "(mode 0777)",
		},
		"link to nothing": {
			func(d string) error { return errors.Join(os.Remove(d), os.Symlink("nowhere", d)) },
			"no such file or directory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "parent", "own")
			if err := errors.Join(os.MkdirAll(dir, 0o755), test.change(dir)); err != nil {
				t.Fatal(err)
			}
			err := Dir(dir)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// replaceByLink replaces the directory by a symbolic link to a new directory "target" beside it, which has this mode.
func replaceByLink(dir string, mode os.FileMode) error {
	target := filepath.Join(filepath.Dir(dir), "target")
	return errors.Join(os.Remove(dir), os.Mkdir(target, 0o755), os.Chmod(target, mode), os.Symlink(target, dir))
}

// The directory above "." is "." again: the way up had no end.
func TestDirTakesARelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	done := make(chan error, 1)
	go func() { done <- Dir(".") }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not return")
	}
}
