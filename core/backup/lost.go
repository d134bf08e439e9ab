package backup

import (
	"fmt"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// maxNamedPaths is the maximum number of paths that a fault names.
const maxNamedPaths = 100

// Lost collects the files that should be in a backup and are not.
type Lost struct{ unreadable, vanished paths }

// Unreadable adds a file that could not be read. Among the first hundred files, one that is added twice counts once.
func (l *Lost) Unreadable(path string) { l.unreadable.add(path) }

// Vanished adds a file that had gone when it was to be read.
func (l *Lost) Vanished(path string) { l.vanished.add(path) }

// Fault returns source_unreadable or, if all files could be read that were there, source_vanished. Its fact "paths"
// names a hundred files at most. Fault returns nil if no file was lost.
func (l *Lost) Fault() *fault.Error {
	if len(l.unreadable.first) > 0 {
		return fault.New(fault.SourceUnreadable, "not in the backup, because it could not be read: %v", &l.unreadable).
			With("paths", l.unreadable.first)
	}
	if len(l.vanished.first) > 0 {
		const msg = "not in the backup, because it was gone when it was to be read: %v"
		return fault.New(fault.SourceVanished, msg, &l.vanished).With("paths", l.vanished.first)
	}
	return nil
}

// paths are files with one kind of error: the first maxNamedPaths of them by name, and the number of the others.
type paths struct {
	first   []string
	unnamed int
}

func (p *paths) add(path string) {
	switch {
	case slices.Contains(p.first, path):
	case len(p.first) < maxNamedPaths:
		p.first = append(p.first, path)
	default:
		p.unnamed++
	}
}

// String names the first file and says how many others there are.
func (p *paths) String() string {
	if others := len(p.first) + p.unnamed - 1; others > 0 {
		return fmt.Sprintf("%s, and %d more", p.first[0], others)
	}
	return p.first[0]
}

// NotStoredWarning warns of the directories below the roots that no backend stores. what says what they are. Without
// such a directory there is no warning.
func NotStoredWarning(what string, paths []string) []string {
	if len(paths) == 0 {
		return nil
	}
	const most = 10
	text := strings.Join(paths[:min(len(paths), most)], ", ")
	if others := len(paths) - most; others > 0 {
		text += fmt.Sprintf(" and %d more", others)
	}
	return []string{what + " below what is backed up, and not in the backup: " + text +
		"; what is to be in it must be one of the volumes"}
}
