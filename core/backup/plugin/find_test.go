package plugin

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

const script = "#!/bin/sh\n"

// makeBackendsDir makes a directory of backends with a program "good" in it, below a parent of its own.
func makeBackendsDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "parent", "backends")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "good"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sha256Hex(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func TestFindReturnsProgram(t *testing.T) {
	dir := makeBackendsDir(t)
	for _, sum := range []string{"", sha256Hex(script), strings.ToUpper(sha256Hex(script))} {
		got, err := find(dir, "good", sum)
		if err != nil {
			t.Errorf("sha256 %q: %v", sum, err)
		}
		want := Program{Name: "good", Argv: []string{filepath.Join(dir, "good")}, SHA256: strings.ToLower(sum)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestFindRefusesWhatOthersCanChange(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can change the owner of a file")
	}
	for name, test := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"the program is another's": {func(dir string) error {
			return os.Chown(dir+"/good", 1234, 0)
		}, "good belongs to user 1234"},
		"the group may write the program": {func(dir string) error {
			return os.Chmod(dir+"/good", 0o775)
		}, "good may be written by others than root (mode 0775)"},
		"the directory is another's": {func(dir string) error {
			return os.Chown(dir, 1234, 0)
		}, "backends belongs to user 1234"},
		"all may write the directory": {func(dir string) error {
			return os.Chmod(dir, 0o757)
		}, "backends may be written"},
		"all may add to the directory": {func(dir string) error {
			return os.Chmod(dir, 0o777|os.ModeSticky)
		}, "backends may be written"},
		"the parent is another's": {func(dir string) error {
			return os.Chown(filepath.Dir(dir), 1234, 0)
		}, "parent belongs to user 1234"},
		"the group may write the parent": {func(dir string) error {
			return os.Chmod(filepath.Dir(dir), 0o775)
		}, "parent may be written"},
		"the program is not executable": {func(dir string) error {
			return os.Chmod(dir+"/good", 0o644)
		}, "good is not executable"},
		"the program is a link": {func(dir string) error {
			if err := os.Rename(dir+"/good", dir+"/other"); err != nil {
				return err
			}
			return os.Symlink("other", dir+"/good")
		}, "good is a symbolic link"},
		"the program is a directory": {func(dir string) error {
			if err := os.Remove(dir + "/good"); err != nil {
				return err
			}
			return os.Mkdir(dir+"/good", 0o755)
		}, "good is not a regular file"},
		"the directory is a link to where others may write": {func(dir string) error {
			elsewhere := filepath.Join(dir, "..", "..", "elsewhere")
			if err := os.Rename(dir, elsewhere); err != nil {
				return err
			}
			if err := os.Chmod(elsewhere, 0o777); err != nil {
				return err
			}
			return os.Symlink(elsewhere, dir)
		}, "may be written by others than root (mode 0777)"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeBackendsDir(t)
			if err := test.harm(dir); err != nil {
				t.Fatal(err)
			}
			_, err := find(dir, "good", "")
			if err == nil || fault.Of(err).Code != fault.BackendUntrusted || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want backend_untrusted: %s", err, test.want)
			}
		})
	}
}

func TestFindAndStartCheckSHA256(t *testing.T) {
	_, err := find(makeBackendsDir(t), "good", sha256Hex("another"))
	if fault.Of(err) == nil || fault.Of(err).Code != fault.BackendUntrusted ||
		!strings.Contains(fault.Of(err).Hint, "sha256sum") {
		t.Errorf("got %v, want backend_untrusted", err)
	}
	// Start checks the program again, which may have been changed after Find.
	p := program("well")
	p.SHA256 = sha256Hex("another")
	c, err := Host{SocketDir: socketDir(t)}.Start(t.Context(), p)
	if err == nil {
		c.Close()
	}
	if fault.Of(err) == nil || fault.Of(err).Code != fault.BackendUntrusted {
		t.Errorf("started: got %v, want backend_untrusted", err)
	}
}

func TestFindNamesInstalledBackends(t *testing.T) {
	dir := makeBackendsDir(t)
	for name, installed := range map[string][]string{dir: {"good"}, dir + "/absent": {}} {
		_, err := find(name, "bad", "")
		f := fault.Of(err)
		if f == nil || f.Code != fault.NotFound {
			t.Fatalf("got %v, want not_found", err)
		}
		if diff := cmp.Diff(installed, f.Facts["backends"]); diff != "" {
			t.Error(diff)
		}
	}
}

func TestFindRefusesBadArguments(t *testing.T) {
	for _, args := range [][2]string{
		{"", ""}, {"a/b", ""}, {"..", ""}, {".hidden", ""}, {"-flag", ""}, {"/bin/sh", ""}, {"good\x00", ""},
		{"good", "abc"}, {"good", "xyz"}, {"good", sha256Hex("")[2:]}, {"good", sha256Hex("") + "00"},
	} {
		_, err := find(makeBackendsDir(t), args[0], args[1])
		if fault.Of(err) == nil || fault.Of(err).Code != fault.BadArguments {
			t.Errorf("name %q, sha256 %q: got %v, want bad_arguments", args[0], args[1], err)
		}
	}
}

// An ID that isFileName accepts can be part of a path. It never leads out of a directory and is never an option.
func FuzzIsFileName(f *testing.F) {
	for _, id := range []string{
		"20260102T030405Z", "", ".", "..", "a/b", "-n", "a\x00b", "\u202e", strings.Repeat("x", 300),
	} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if !isFileName(id) {
			return
		}
		path := filepath.Join("/repository", id)
		if filepath.Dir(path) != "/repository" || filepath.Base(path) != id || id[0] == '-' ||
			strings.ContainsAny(id, "\x00\n\r") {
			t.Errorf("%q is accepted", id)
		}
	})
}
