package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

func TestBeneathRefusesSymbolicLinks(t *testing.T) {
	top := t.TempDir()
	for _, dir := range []string{"real/a/b", "real/c"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"linked": "real", "real/out": "/", "real/a/up": "../c", "real/a/self": "self"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"real", "linked"} { // the directory itself may be a link
		dir = filepath.Join(top, dir)
		for path, want := range map[string]string{
			"/a/b": "", "/": "", "/out": "symbolic link", "/out/etc": "symbolic link", "/a/up": "symbolic link",
			"/a/self": "symbolic link", "/none": "no such file",
		} {
			got, err := backup.JoinNoLinks(dir, path)
			switch {
			case want == "" && (err != nil || got != filepath.Join(dir, path)):
				t.Errorf("%s below %s: %q, %v", path, dir, got, err)
			case want != "" && (!errors.Is(err, fault.BackendFailed) || !strings.Contains(err.Error(), want)):
				t.Errorf("%s below %s: %q, %v; want %q", path, dir, got, err, want)
			}
		}
	}
	_, err := backup.RootsBeneath(filepath.Join(top, "real"), []string{"/a", "/out"})
	if !errors.Is(err, fault.BackendFailed) {
		t.Errorf("one of two roots is a link: %v", err)
	}
}
