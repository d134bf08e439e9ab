package backuptest

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// renamed changes the content of files, or puts others in their place, so that their sizes and times of modification
// stay, and gives them other names than they had.
func renamed(b *bench) {
	const first, second = "first content", "other content"
	do := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	added, moved, put := filepath.Join(b.work, "added"), filepath.Join(b.work, "moved"), filepath.Join(b.work, "put")
	for _, file := range []string{added + "/a", moved + "/a", put + "/c/file"} {
		b.dated(file, first)
	}
	b.dated(put+"/b/file", second)
	for _, dir := range []string{moved + "/before", put + "/d"} {
		do(os.Mkdir(dir, 0o755))
	}
	do(os.Link(moved+"/a", moved+"/before/b"))
	do(os.Link(put+"/c/file", put+"/d/file"))
	seen := map[string]string{}
	for _, root := range []string{added, moved, put} {
		seen[root] = b.readOnly(root)
	}
	b.settle()
	for _, root := range seen {
		b.recorded(false, root)
	}

	b.dated(added+"/a", second)
	do(os.Link(added+"/a", added+"/b"))
	b.dated(moved+"/a", second)
	do(os.Rename(moved+"/before", moved+"/after"))
	b.exchange(put+"/b", put+"/c") // d/file is as it was, and b/file is another name of it
	for root, want := range map[string]map[string]string{
		added: {"a": second, "b": second},
		moved: {"a": second, "after/b": second},
		put:   {"b/file": first, "c/file": second, "d/file": first},
	} {
		stored := b.recorded(false, seen[root])
		for file, content := range want {
			b.holds(stored.ID, seen[root], file, content)
		}
	}
}

// readOnly mounts a directory at another place, as a snapshot is: what is there does not change while it is stored.
func (b *bench) readOnly(dir string) string {
	b.Helper()
	at := dir + "-snapshot"
	if err := os.Mkdir(at, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Unmount(at, 0) })
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		b.Fatal(err)
	}
	return at
}
