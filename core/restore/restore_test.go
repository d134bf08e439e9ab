package restore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// Some backends store a volume that is mounted within another one as directories of that other one.
func TestCompareOptionsSkipRootsBelow(t *testing.T) {
	at := time.Now()
	r := &restoreRun{backup: backup.Stored{Time: at, Roots: []string{"/dat", "/dat/wal", "/data", "/pccehr"}}}
	for root, want := range map[string][]string{"/dat": {"wal"}, "/dat/wal": nil, "/data": nil} {
		o := r.compareOptions(root)
		if diff := cmp.Diff(want, o.Skip); diff != "" {
			t.Errorf("%s: %s", root, diff)
		}
		if o.Unchanged("file", &unix.Statx_t{Mode: unix.S_IFREG}) {
			t.Errorf("%s: without a record a file counts as unchanged", root)
		}
	}
}

func TestReplacePathsInMessageAndHint(t *testing.T) {
	failed := fault.New(fault.NoSpace, "write /proc/self/fd/9/base/1: full").WithHint("more; see /proc/self/fd/9/base")
	f := fault.Of(replacePaths(failed, "/proc/self/fd/9", "snapshot:/dat"))
	if strings.Contains(f.Msg, "/proc") || !strings.Contains(f.Msg, "snapshot:/dat/base/1") ||
		f.Code != fault.NoSpace || f.Hint != "more; see snapshot:/dat/base" {
		t.Errorf("%+v", f)
	}
}

// What is left out, or cannot be read, is named as the user knows it, not by how this process reached it.
func TestWarningsNameFilesAsTheUserKnowsThem(t *testing.T) {
	from := "/proc/77/root/run/rewind/journey/1/scratch/restic/id/0a/dat"
	pairs := []string{from, "backup:/dat", "/proc/self/fd/9", "snapshot:/dat"}
	got := replaceInAll([]string{from + "/s: a socket, left out", `"/proc/self/fd/9/\n": cannot hold`}, pairs)
	if want := []string{"backup:/dat/s: a socket, left out", `"snapshot:/dat/\n": cannot hold`}; !cmp.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if replaceInAll(nil, pairs) != nil || unreadableFault(nil) != nil {
		t.Error("something of nothing")
	}
	many := append(slices.Repeat([]string{"backup:/dat/f"}, 100), "and 4900 more")
	f := fault.Of(unreadableFault(many))
	if strings.Contains(f.Msg, "101") || !strings.Contains(f.Msg, "such as backup:/dat/f, ") || f.Facts["paths"] == nil {
		t.Errorf("%+v", f)
	}
}

// Whatever ends a restore, the hint says what becomes of the set: one that was there before is removed with what it
// held as soon as something may have been written into it.
func TestHintSaysWhatBecomesOfTheSet(t *testing.T) {
	filled, guard := newGuardedSnapshot(t, 0)
	_, noSpace := writeUntilRefused(t, filled, guard, 64*mib)
	fake, overflowed := newGuardedSnapshot(t, 0)
	fake.Fill("vg00/dat_restore", 100)
	causes := map[string]error{
		"no hint":    fault.New(fault.CommandFailed, "something"),
		"overflow":   overflowed.reserve(t.Context(), 0, tree.Block),
		"no space":   noSpace,
		"other hint": fault.New(fault.Busy, "something").WithHint("see who uses it"),
	}
	for name, err := range causes {
		for _, c := range []struct {
			existing, written bool
			want              string
		}{
			{false, true, "set old is removed again, and the volumes are untouched; "},
			{true, true, "set old is removed again, and the volumes are untouched; "},
			{true, false, "set old is as it was, and the volumes are untouched; "},
		} {
			r := &restoreRun{planned: &snapset.Planned{Existing: c.existing}, maybeWritten: c.written}
			r.Set, r.ownSet = "old", &snapset.OwnedSet{}
			f := fault.Of(r.withHint(err))
			if !strings.HasPrefix(f.Hint, c.want) || strings.Contains(f.Hint, "nothing was changed") {
				t.Errorf("%s, %+v: %s; hint: %s", name, c, f.Msg, f.Hint)
			}
		}
	}
	if f := fault.Of((&restoreRun{}).withHint(causes["other hint"])); f.Hint != "see who uses it" {
		t.Errorf("before there is a set: %s", f.Hint)
	}
}

// A file system that is too small stays so, however often the same is run again.
func TestHintOfFullFileSystemNamesWhatToEnlarge(t *testing.T) {
	target := &snapset.Target{LV: &lvm.Volume{VG: "vg00", Name: "dat"}}
	target.Name = "/dat"
	for err, want := range map[error]string{
		unix.ENOSPC: "lvextend -r vg00/dat", unix.EDQUOT: "quota", unix.EIO: "",
	} {
		f := fault.Of(fullHint(fault.New(fault.NoSpace, "write snapshot:/dat/f: %w", err), target))
		if want == "" && f.Hint != "" || !strings.Contains(f.Hint, want) || !errors.Is(f, err) {
			t.Errorf("%v: %v, hint %q", err, f, f.Hint)
		}
	}
}

// What was another volume at the backup may be a directory by now, whose files belong to another time than the rest.
func TestDirectoryThatWasAVolumeIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"wal", "mounted", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "empty" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("wal", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	mounts := []filesystem.Mount{{ID: 1, Point: "/dat/mounted"}}
	skipped := []string{"empty", "gone", "link", "mounted", "wal"}
	got := leftAloneWarnings(mounts, dir, "/dat", skipped)
	if len(got) != 1 || !strings.HasPrefix(got[0], "/dat/wal was a volume ") {
		t.Errorf("%q", got)
	}
}

// A directory that has become a volume of its own since the backup is restored where nobody sees it.
func TestDirectoryThatIsAMountPointNowIsWarnedOf(t *testing.T) {
	from := t.TempDir()
	for _, dir := range []string{"wal/000", "empty"} {
		if err := os.MkdirAll(filepath.Join(from, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounts := []filesystem.Mount{
		{Point: "/", Source: "/dev/vg00/root"}, {Point: "/dat", Source: "/dev/vg00/dat"},
		{Point: "/dat/wal", Source: "/dev/vg00/wal"}, {Point: "/dat/empty", Source: "/dev/vg00/empty"},
		{Point: "/dat/new", Source: "/dev/vg00/new"}, {Point: "/data", Source: "/dev/vg00/data"},
	}
	warned := coveredWarnings(mounts, from, "/dat", []string{"/dat"})
	if len(warned) != 1 || !strings.HasPrefix(warned[0], "/dat/wal was a directory of /dat when the backup was made") {
		t.Errorf("%q", warned)
	}
	if warned := coveredWarnings(mounts, from, "/dat", []string{"/dat", "/dat/wal"}); len(warned) > 0 {
		t.Errorf("a volume that was one at the backup, too: %q", warned)
	}
}

// The journal, and the programs that the next boot needs, stay as they are at the set's instant.
func TestOwnStateIsNotRestored(t *testing.T) {
	state := t.TempDir()
	mounts, err := filesystem.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	holding, err := filesystem.Holding(mounts, state)
	if err != nil {
		t.Fatal(err)
	}
	kept := ownState(mounts, state, &snapset.Target{FS: holding.Dev})
	want := filepath.Join(holding.Root, strings.TrimPrefix(state, holding.Point))
	if len(kept) != 1 || filepath.Join("/", kept[0]) != want {
		t.Errorf("left alone: %q", kept)
	}
	if kept := ownState(mounts, state, &snapset.Target{FS: filesystem.NewDev(250, 77)}); len(kept) > 0 {
		t.Errorf("left alone on another volume: %q", kept)
	}
}
