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

// checkDescription checks what Describe returned.
func (c *Client) checkDescription(d *backup.Description) (backup.Description, error) {
	if d == nil || d.Name == "" {
		return backup.Description{}, c.failure("Describe ended without a description")
	}
	for _, path := range d.Local {
		if !isCleanPath(path) {
			return backup.Description{}, c.failure("Describe names %q, which is no absolute path", path)
		}
	}
	return *d, nil
}

// checkStored checks what Store returned for the tree, also together with a fault. Otherwise a backup that is not what
// was asked for would be noticed only when it is needed.
func (c *Client) checkStored(t backup.Tree, s *backup.Stored, err error) (backup.Stored, error) {
	if err != nil && s == nil {
		return backup.Stored{}, err
	}
	if problem := c.storedProblem(t, s, err != nil); problem != "" {
		return backup.Stored{}, fault.All(c.failure("Store %s", problem), err)
	}
	return *s, err
}

// storedProblem returns what is wrong with the backup s of the tree t, or "".
func (c *Client) storedProblem(t backup.Tree, s *backup.Stored, incomplete bool) string {
	switch {
	case s == nil:
		return "ended without a result"
	case !isFileName(s.ID):
		return "returned the ID " + quoteShort(s.ID) + ", which is not safe as a file's name"
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

// checkList checks what List returned.
func (c *Client) checkList(host string, all []backup.Stored) error {
	for i, s := range all {
		switch {
		case !isFileName(s.ID):
			return c.failure("List returned the ID %s, which is not safe as a file's name", quoteShort(s.ID))
		case host != "" && s.Host != host:
			return c.failure("List returned a backup of host %q, not of %q", s.Host, host)
		case i > 0 && s.Time.After(all[i-1].Time):
			return c.failure("List does not return the newest first")
		}
	}
	return nil
}

// checkPresented checks what Present presented, and returns it with paths that are readable outside the backend's mount
// namespace.
func (c *Client) checkPresented(p backup.Presented) (backup.Presented, error) {
	if len(p.Roots) == 0 {
		return backup.Presented{}, c.failure("Present presented nothing")
	}
	root := filepath.Join("/proc", c.process.ID(), "root")
	readable := p
	if p.Flags != "" {
		if !isCleanPath(p.Flags) {
			return backup.Presented{}, c.failure("Present names %q, which is no absolute path", p.Flags)
		}
		readable.Flags = filepath.Join(root, p.Flags)
	}
	readable.Roots = make(map[string]string, len(p.Roots))
	for name, dir := range p.Roots {
		if !isCleanPath(name) || !isCleanPath(dir) {
			return backup.Presented{}, c.failure("Present presented %q at %q, which are no absolute paths", name, dir)
		}
		path := filepath.Join(root, dir)
		if info, err := os.Lstat(path); err == nil && dir != "/" && info.Mode()&fs.ModeSymlink != 0 {
			return backup.Presented{}, c.failure("Present presented %q at %q, which is a symbolic link: "+
				"it may lead to this host's own files", name, dir)
		}
		readable.Roots[name] = path
	}
	return readable, nil
}

func sameRoots(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func isCleanPath(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

// isFileName reports whether an ID is safe as part of a path and of a command line.
func isFileName(id string) bool {
	return id != "" && len(id) <= 255 && id[0] != '.' && id[0] != '-' && !strings.ContainsRune(id, '/') &&
		!strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) })
}

// quoteShort quotes a text from the backend, and cuts it off after 80 bytes.
func quoteShort(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "\uFFFD") + `"`
}
