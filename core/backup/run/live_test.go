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

// A backend would store the link, and nothing of what it leads to.
func TestALinkIsNotReadLive(t *testing.T) {
	dir := t.TempDir()
	real, link, dangling := filepath.Join(dir, "real"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	err := errors.Join(os.MkdirAll(real+"/deep", 0o755), os.Symlink("real", link), os.Symlink("gone", dangling))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fault.Code{
		real: "", link: fault.BadArguments, link + "/deep": "", dangling: fault.NotFound, dir + "/none": fault.NotFound,
	} {
		err := areDirectories([]string{path})
		if want == "" && err != nil || want != "" && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
		if want == fault.BadArguments && (err == nil || !strings.Contains(fault.Of(err).Hint, real)) {
			t.Errorf("%s: it is not said what to name instead: %v", path, err)
		}
	}
}

func TestWhatIsReadLiveLiesBesideTheVolumes(t *testing.T) {
	dir, on, mounts := aDirectory(t)
	err := beside([]string{dir}, mounts, map[filesystem.Dev]string{on.Dev: "vg00/dat"})
	if !errors.Is(err, fault.BadArguments) || !strings.Contains(err.Error(), dir+", to be read live, lies on "+on.Point+" (vg00/dat)") {
		t.Errorf("on a volume of the set: %v", err)
	}
	if err := beside([]string{dir}, mounts, map[filesystem.Dev]string{{Major: 4095, Minor: 1}: "vg00/dat"}); err != nil {
		t.Errorf("on another volume: %v", err)
	}
}
