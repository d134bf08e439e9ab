package backuptest

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sameSizeAndTimeRenamed changes the content of files, or replaces them, so that their sizes and times of modification
// stay the same, and gives them other names at the same time.
func sameSizeAndTimeRenamed(tc *testCase) {
	const first, second = "first content", "other content"
	must := func(err error) {
		tc.Helper()
		if err != nil {
			tc.Fatal(err)
		}
	}
	added, moved, swapped := filepath.Join(tc.dir, "added"), filepath.Join(tc.dir, "moved"), filepath.Join(tc.dir, "put")
	for _, file := range []string{added + "/a", moved + "/a", swapped + "/c/file"} {
		tc.writeDated(file, first)
	}
	tc.writeDated(swapped+"/b/file", second)
	for _, dir := range []string{moved + "/before", swapped + "/d"} {
		must(os.Mkdir(dir, 0o755))
	}
	must(os.Link(moved+"/a", moved+"/before/b"))
	must(os.Link(swapped+"/c/file", swapped+"/d/file"))
	snapshots := map[string]string{}
	for _, root := range []string{added, moved, swapped} {
		snapshots[root] = tc.mountReadOnly(root)
	}
	tc.waitUntilSettled()
	for _, root := range snapshots {
		tc.storeWithRecord(false, root)
	}

	tc.writeDated(added+"/a", second)
	must(os.Link(added+"/a", added+"/b"))
	tc.writeDated(moved+"/a", second)
	must(os.Rename(moved+"/before", moved+"/after"))
	tc.exchange(swapped+"/b", swapped+"/c") // d/file stays as it was, and b/file becomes another name of it
	for root, want := range map[string]map[string]string{
		added:   {"a": second, "b": second},
		moved:   {"a": second, "after/b": second},
		swapped: {"b/file": first, "c/file": second, "d/file": first},
	} {
		stored := tc.storeWithRecord(false, snapshots[root])
		for file, content := range want {
			tc.wantContent(stored.ID, snapshots[root], file, content)
		}
	}
}

// mountReadOnly mounts a directory read-only at another place and returns that. Like a snapshot, it does not change
// while it is stored.
func (tc *testCase) mountReadOnly(dir string) string {
	tc.Helper()
	mountPoint := dir + "-snapshot"
	if err := os.Mkdir(mountPoint, 0o755); err != nil {
		tc.Fatal(err)
	}
	if err := unix.Mount(dir, mountPoint, "", unix.MS_BIND, ""); err != nil {
		tc.Fatal(err)
	}
	tc.Cleanup(func() { _ = unix.Unmount(mountPoint, 0) })
	if err := unix.Mount("", mountPoint, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		tc.Fatal(err)
	}
	return mountPoint
}
