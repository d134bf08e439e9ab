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

// shelf makes a directory of backends with a program "good" in it, below a parent of its own.
func shelf(t *testing.T) string {
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

func digest(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func TestFind(t *testing.T) {
	dir := shelf(t)
	for _, sum := range []string{"", digest(script), strings.ToUpper(digest(script))} {
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

func TestFindTrustsNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("it takes root to give files away")
	}
	for name, test := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"the program is another's":        {func(dir string) error { return os.Chown(dir+"/good", 1234, 0) }, "good belongs to user 1234"},
		"the group may write the program": {func(dir string) error { return os.Chmod(dir+"/good", 0o775) }, "good may be written by others than root (mode 0775)"},
		"the directory is another's":      {func(dir string) error { return os.Chown(dir, 1234, 0) }, "backends belongs to user 1234"},
		"all may write the directory":     {func(dir string) error { return os.Chmod(dir, 0o757) }, "backends may be written"},
		"all may add to the directory":    {func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, "backends may be written"},
		"the parent is another's":         {func(dir string) error { return os.Chown(filepath.Dir(dir), 1234, 0) }, "parent belongs to user 1234"},
		"the group may write the parent":  {func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o775) }, "parent may be written"},
		"it is not executable":            {func(dir string) error { return os.Chmod(dir+"/good", 0o644) }, "good is not executable"},
		"it is a link": {func(dir string) error {
			if err := os.Rename(dir+"/good", dir+"/other"); err != nil {
				return err
			}
			return os.Symlink("other", dir+"/good")
		}, "good is a symbolic link"},
		"it is a directory": {func(dir string) error {
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
			dir := shelf(t)
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

func TestFindChecksTheProgram(t *testing.T) {
	_, err := find(shelf(t), "good", digest("another"))
	if fault.Of(err) == nil || fault.Of(err).Code != fault.BackendUntrusted || !strings.Contains(fault.Of(err).Hint, "sha256sum") {
		t.Errorf("got %v, want backend_untrusted", err)
	}
	// Also when it is started: it may have been changed since.
	p := program("well")
	p.SHA256 = digest("another")
	c, err := Host{SocketDir: socketDir(t)}.Start(t.Context(), p)
	if err == nil {
		c.Close()
	}
	if fault.Of(err) == nil || fault.Of(err).Code != fault.BackendUntrusted {
		t.Errorf("started: got %v, want backend_untrusted", err)
	}
}

func TestFindNamesWhatIsThere(t *testing.T) {
	dir := shelf(t)
	for name, there := range map[string][]string{dir: {"good"}, dir + "/absent": {}} {
		_, err := find(name, "bad", "")
		f := fault.Of(err)
		if f == nil || f.Code != fault.NotFound {
			t.Fatalf("got %v, want not_found", err)
		}
		if diff := cmp.Diff(there, f.Facts["backends"]); diff != "" {
			t.Error(diff)
		}
	}
}

func TestFindWantsPlainArguments(t *testing.T) {
	for _, args := range [][2]string{
		{"", ""}, {"a/b", ""}, {"..", ""}, {".hidden", ""}, {"-flag", ""}, {"/bin/sh", ""}, {"good\x00", ""},
		{"good", "abc"}, {"good", "xyz"}, {"good", digest("")[2:]}, {"good", digest("") + "00"},
	} {
		if _, err := find(shelf(t), args[0], args[1]); fault.Of(err) == nil || fault.Of(err).Code != fault.BadArguments {
			t.Errorf("name %q, sha256 %q: got %v, want bad_arguments", args[0], args[1], err)
		}
	}
}

// An ID that is believed can be part of a path, and never leads out of a directory or into another's options.
func FuzzFileName(f *testing.F) {
	for _, id := range []string{"20260102T030405Z", "", ".", "..", "a/b", "-n", "a\x00b", "\u202e", strings.Repeat("x", 300)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if !fileName(id) {
			return
		}
		path := filepath.Join("/repository", id)
		if filepath.Dir(path) != "/repository" || filepath.Base(path) != id || id[0] == '-' || strings.ContainsAny(id, "\x00\n\r") {
			t.Errorf("%q is believed", id)
		}
	})
}
