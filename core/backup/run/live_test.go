package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// A backend would store only the link, not the directory that it leads to.
func TestSymbolicLinkIsNotReadLive(t *testing.T) {
	dir := t.TempDir()
	target, link, dangling := filepath.Join(dir, "real"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	err := errors.Join(os.MkdirAll(target+"/deep", 0o755), os.Symlink("real", link), os.Symlink("gone", dangling))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fault.Code{
		target: "", link: fault.BadArguments, link + "/deep": "", dangling: fault.NotFound, dir + "/none": fault.NotFound,
	} {
		err := checkLiveDirectories([]string{path})
		if want == "" && err != nil || want != "" && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
		if want == fault.BadArguments && (err == nil || !strings.Contains(fault.Of(err).Hint, target)) {
			t.Errorf("%s: the hint does not name the link's target: %v", path, err)
		}
	}
}

func TestLiveDirectoryOnMemberIsRefused(t *testing.T) {
	dir, on, mounts := tempDir(t)
	err := refuseLiveOnMembers([]string{dir}, mounts, map[filesystem.Dev]string{on.Dev: "vg00/dat"})
	want := dir + ", to be read live, lies on " + on.Point + " (vg00/dat)"
	if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), want) {
		t.Errorf("on a volume of the set: %v", err)
	}
	otherMembers := map[filesystem.Dev]string{{Major: 4095, Minor: 1}: "vg00/dat"}
	if err := refuseLiveOnMembers([]string{dir}, mounts, otherMembers); err != nil {
		t.Errorf("on another volume: %v", err)
	}
}
