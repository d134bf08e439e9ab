package backup

import (
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/fault"
)

// manyPaths bounds how many paths a failure names.
const manyPaths = 100

// Lost are the files that should be in a backup and are not.
type Lost struct{ unreadable, vanished paths }

// Unreadable adds a file that could not be read. One that is added twice counts once.
func (l *Lost) Unreadable(path string) { l.unreadable.add(path) }

// Vanished adds a file that was gone when it was to be read.
func (l *Lost) Vanished(path string) { l.vanished.add(path) }

// Fault is source_unreadable or source_vanished with the fact "paths"; nil if nothing was lost.
func (l *Lost) Fault() *fault.Error {
	if len(l.unreadable.named) > 0 {
		return fault.New(fault.SourceUnreadable, "not in the backup, because it could not be read: %v", &l.unreadable).
			With("paths", l.unreadable.named)
	}
	if len(l.vanished.named) > 0 {
		return fault.New(fault.SourceVanished, "not in the backup, because it was gone when it was to be read: %v", &l.vanished).
			With("paths", l.vanished.named)
	}
	return nil
}

// paths are those that had an error, the first of them by name.
type paths struct {
	named []string
	more  int
}

func (p *paths) add(path string) {
	switch {
	case slices.Contains(p.named, path):
	case len(p.named) < manyPaths:
		p.named = append(p.named, path)
	default:
		p.more++
	}
}

// String names the first, and counts the others.
func (p *paths) String() string {
	if more := len(p.named) + p.more - 1; more > 0 {
		return fmt.Sprintf("%s, and %d more", p.named[0], more)
	}
	return p.named[0]
}
