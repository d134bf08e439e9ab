package plugin

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// described checks what Describe returned.
func (c *Client) described(d *backup.Description) (backup.Description, error) {
	if d == nil || d.Name == "" {
		return backup.Description{}, c.failed("Describe ended without a description")
	}
	for _, path := range d.Local {
		if !cleanPath(path) {
			return backup.Description{}, c.failed("Describe names %q, which is no absolute path", path)
		}
	}
	return *d, nil
}

// stored checks what Store returned for the tree, also beside a fault: a backup that is not what was asked for would be
// found when it is needed.
func (c *Client) stored(t backup.Tree, s *backup.Stored, err error) (backup.Stored, error) {
	if err != nil && s == nil {
		return backup.Stored{}, err
	}
	if wrong := c.isStored(t, s, err != nil); wrong != "" {
		return backup.Stored{}, fault.All(c.failed("Store %s", wrong), err)
	}
	return *s, err
}

// isStored returns what is wrong, or nothing.
func (c *Client) isStored(t backup.Tree, s *backup.Stored, incomplete bool) string {
	switch {
	case s == nil:
		return "ended without a result"
	case !fileName(s.ID):
		return "returned the ID " + quoted(s.ID) + ", which is not safe as a file's name"
	case s.Host != t.Host || s.Set != t.Set || !sameRoots(s.Roots, t.Roots):
		return "returned another backup than it was asked for"
	case s.Time.Sub(t.Time).Abs() >= time.Second:
		return "returned a backup of " + s.Time.Format(time.RFC3339) + ", not of " + t.Time.Format(time.RFC3339)
	case s.Incomplete != incomplete:
		return "does not say the same of the backup's completeness as its result"
	case s.Files < 0 || s.Bytes < 0 || s.Added < 0:
		return "returned a negative number"
	}
	return ""
}

// ordered checks what List returned.
func (c *Client) ordered(host string, all []backup.Stored) error {
	for i, s := range all {
		switch {
		case !fileName(s.ID):
			return c.failed("List returned the ID %s, which is not safe as a file's name", quoted(s.ID))
		case host != "" && s.Host != host:
			return c.failed("List returned a backup of host %q, not of %q", s.Host, host)
		case i > 0 && s.Time.After(all[i-1].Time):
			return c.failed("List does not return the newest first")
		}
	}
	return nil
}

// presented checks what is presented, and makes it readable outside the backend's mount namespace.
func (c *Client) presented(p backup.Presented) (backup.Presented, error) {
	if len(p.Roots) == 0 {
		return backup.Presented{}, c.failed("Present presented nothing")
	}
	through := filepath.Join("/proc", c.process.ID(), "root")
	seen := p
	if p.Flags != "" {
		if !cleanPath(p.Flags) {
			return backup.Presented{}, c.failed("Present names %q, which is no absolute path", p.Flags)
		}
		seen.Flags = filepath.Join(through, p.Flags)
	}
	seen.Roots = make(map[string]string, len(p.Roots))
	for root, dir := range p.Roots {
		if !cleanPath(root) || !cleanPath(dir) {
			return backup.Presented{}, c.failed("Present presented %q at %q, which are no absolute paths", root, dir)
		}
		at := filepath.Join(through, dir)
		if info, err := os.Lstat(at); err == nil && dir != "/" && info.Mode()&fs.ModeSymlink != 0 {
			return backup.Presented{}, c.failed("Present presented %q at %q, which is a symbolic link: "+
				"it may lead to this host's own files", root, dir)
		}
		seen.Roots[root] = at
	}
	return seen, nil
}

func sameRoots(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func cleanPath(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

// fileName tells whether an ID can be part of a path or of a command line.
func fileName(id string) bool {
	return id != "" && len(id) <= 255 && id[0] != '.' && id[0] != '-' && !strings.ContainsRune(id, '/') &&
		!strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) })
}

// quoted shortens what a backend made up.
func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "\uFFFD") + `"`
}
