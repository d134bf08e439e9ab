package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

// replacePaths replaces paths in an error's message and hint, which name how this process reached the files, by what a
// user understands. pairs are old and new, as in strings.NewReplacer.
func replacePaths(err error, pairs ...string) error {
	f := *fault.Of(err)
	replacer := strings.NewReplacer(pairs...)
	f.Msg, f.Hint = replacer.Replace(f.Msg), replacer.Replace(f.Hint)
	return &f
}

// leftAloneWarnings warns of directories in a snapshot, mounted at dir, whose content is neither that of the backup nor
// compared: when the backup was made, another volume was mounted there, which has a root of its own in the backup, and
// now the files are on this volume. skipped are the paths of these directories relative to root.
func leftAloneWarnings(mounts []filesystem.Mount, dir, root string, skipped []string) (warnings []string) {
	for _, rel := range skipped {
		path := filepath.Join(root, rel)
		if _, ok := filesystem.At(mounts, path); ok {
			continue // what lies below the mount is in use by nobody
		}
		if isFilled(dir, rel) {
			const msg = "%s was a volume of its own when the backup was made, and is a directory of %s now: " +
				"what is in it is not restored, and stays in the set as it is"
			warnings = append(warnings, fmt.Sprintf(msg, path, root))
		}
	}
	return warnings
}

// coveredWarnings warns of directories of a volume in the backup, readable at from, at which another volume is mounted
// now. What the backup has of them is restored below the mount, where nobody sees it. point is where the volume is
// mounted, and roots are those of the backup.
func coveredWarnings(mounts []filesystem.Mount, from, point string, roots []string) (warnings []string) {
	for _, m := range mounts {
		rel, below := strings.CutPrefix(m.Point, strings.TrimSuffix(point, "/")+"/")
		if !below || rel == "" || slices.Contains(roots, m.Point) || m.Type == filesystem.Autofs {
			continue
		}
		if isFilled(from, rel) {
			const msg = "%s was a directory of %s when the backup was made, and %s is mounted there now: what the backup " +
				"has of it is restored below the mount, where nobody sees it, and %s stays as it is"
			warnings = append(warnings, fmt.Sprintf(msg, m.Point, point, m.Source, m.Source))
		}
	}
	return warnings
}

// isFilled reports whether there is a directory rel in dir, reached through no link, that is not empty.
func isFilled(dir, rel string) bool {
	inside, err := backup.JoinNoLinks(dir, rel)
	if err != nil {
		return false
	}
	entries, err := os.ReadDir(inside)
	return err == nil && len(entries) > 0
}

// replaceInAll is replacePaths for a list of texts.
func replaceInAll(texts, pairs []string) (out []string) {
	replacer := strings.NewReplacer(pairs...)
	for _, text := range texts {
		out = append(out, replacer.Replace(text))
	}
	return out
}

// unreadableFault returns the fault for files of the backup that could not be read (tree.Done.Unreadable), or nil.
func unreadableFault(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	named := paths[:min(maxPathsNamed, len(paths))]
	return fault.New(fault.BackendFailed, "files cannot be read, such as %s", strings.Join(named, ", ")).
		With("paths", paths).WithHint("check the repository with the backend's own tool")
}

// fullHint adds to an error what to do if the file system of a volume has too little room for what the backup holds, or
// a quota allows less.
func fullHint(err error, t *snapset.Target) error {
	f := *fault.Of(err)
	switch {
	case f.Hint != "":
	case errors.Is(err, unix.EDQUOT):
		f.WithHint("raise the quota of that file's owner, group or project on %s, or switch it off, then restore again",
			t.Name)
	case errors.Is(err, unix.ENOSPC):
		f.WithHint("the file system of %s has too little room for what the backup holds: see df -h and df -i, enlarge it "+
			"(lvextend -r %s), then restore again", t.Name, t.LV.FullName())
	}
	return &f
}
