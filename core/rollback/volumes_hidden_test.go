package rollback

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/filesystem"
)

// What was written to the path of a volume while it was not mounted lies below its mount afterwards.
func TestHiddenNamesWhatWasWrittenMeanwhile(t *testing.T) {
	dir := t.TempDir()
	point := filepath.Join(dir, "dat")
	write := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.MkdirAll(filepath.Join(point, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("old", "deep")
	mounts := []filesystem.Mount{{ID: 1, Point: "/"}, {ID: 2, Parent: 1, Point: dir}}
	time.Sleep(20 * time.Millisecond) // the times of files have the resolution of the kernel's ticks
	stopped := time.Now()
	warnings := func(mounts []filesystem.Mount, until time.Time) string {
		return strings.Join(hiddenWarnings([]string{point, filepath.Join(dir, "none")}, mounts, stopped, until), "\n")
	}
	if got := warnings(mounts, time.Now()); got != "" {
		t.Errorf("nothing was written: %s", got)
	}
	time.Sleep(20 * time.Millisecond)
	write("new", "deep/below")
	got := warnings(mounts, time.Now().Add(time.Second))
	for _, want := range []string{"wrote to " + point, ": deep, new; ", "mount --bind " + dir + " /mnt", "/mnt/dat"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in: %s", want, got)
		}
	}
	if got := warnings(mounts, stopped); got != "" {
		t.Errorf("of a time that is not yet: %s", got)
	}
	for what, mount := range map[string]filesystem.Mount{
		"it is mounted":            {ID: 3, Parent: 2, Point: point},
		"it lies in an automount":  {ID: 3, Parent: 1, Point: dir, Type: filesystem.Autofs},
		"it is an automount point": {ID: 3, Parent: 2, Point: point, Type: filesystem.Autofs},
	} {
		if got := warnings(append(mounts, mount), time.Now().Add(time.Second)); got != "" {
			t.Errorf("%s: %s", what, got)
		}
	}
	for i := range 2 * mostNamed {
		write(fmt.Sprintf("n%d", i))
	}
	more := fmt.Sprintf("and %d more", mostNamed+2)
	if got := warnings(mounts, time.Now().Add(time.Second)); !strings.Contains(got, more) {
		t.Error(got)
	}
}
