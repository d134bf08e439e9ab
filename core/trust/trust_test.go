package trust

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDir(t *testing.T) {
	const written = " may be written by others than root "
	for name, test := range map[string]struct {
		harm func(dir string) error
		want string // at the end of the error; empty: there is none
	}{
		"root's alone":        {func(string) error { return nil }, ""},
		"not there yet":       {os.Remove, ""},
		"all may write":       {func(d string) error { return os.Chmod(d, 0o757) }, "own" + written + "(mode 0757)"},
		"all may add":         {func(d string) error { return os.Chmod(d, 0o777|os.ModeSticky) }, "own" + written + "(mode 0777)"},
		"another's":           {func(d string) error { return os.Chown(d, 1234, 0) }, "own belongs to user 1234, not to root"},
		"all may write above": {func(d string) error { return os.Chmod(filepath.Dir(d), 0o777) }, "above" + written + "(mode 0777)"},
		"all may add above":   {func(d string) error { return os.Chmod(filepath.Dir(d), 0o777|os.ModeSticky) }, ""},
		"not there, all may add": {func(d string) error {
			return errors.Join(os.Remove(d), os.Chmod(filepath.Dir(d), 0o1777|os.ModeSticky))
		}, "above" + written + "(mode 0777)"},
		"a link to what is root's":     {func(d string) error { return link(d, 0o755) }, ""},
		"a link to where others may":   {func(d string) error { return link(d, 0o777) }, "target" + written + "(mode 0777)"},
		"a link that leads to nowhere": {func(d string) error { return errors.Join(os.Remove(d), os.Symlink("nowhere", d)) }, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "above", "own")
			if err := errors.Join(os.MkdirAll(dir, 0o755), test.harm(dir)); err != nil {
				t.Fatal(err)
			}
			err := Dir(dir)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasSuffix(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func link(dir string, mode os.FileMode) error {
	target := filepath.Join(filepath.Dir(dir), "target")
	return errors.Join(os.Remove(dir), os.Mkdir(target, 0o755), os.Chmod(target, mode), os.Symlink(target, dir))
}
