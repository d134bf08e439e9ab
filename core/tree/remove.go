package tree

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// remove deletes an entry of `to` and everything below it, except what Options.Skip lists and what is mounted there. It
// reports whether the entry is gone.
func (j *job) remove(in *node, name, rel string) (bool, error) {
	if err := j.checkContext(rel); err != nil || j.skip[rel] {
		return false, err
	}
	n, err := in.childIfAny(name)
	if n == nil || err != nil {
		return err == nil, j.targetError("delete", rel, err)
	}
	defer n.close()
	if n.isMountPoint(in) {
		j.warnings.add(j.targetPath(rel) + ": a mount point, left as it is")
		return false, nil
	}
	if n.flags() != 0 {
		j.flagged.add(printable(rel))
	}
	if n.isDir() {
		if empty, err := j.emptyDir(n, rel); !empty || err != nil {
			return false, err
		}
	}
	if err := j.unlink(in, n, name, rel); err != nil {
		return false, err
	}
	if n.isDir() || n.st.Nlink < 2 {
		delete(j.pendingFlags, n.id())
	}
	j.done.Deleted++
	j.report(rel)
	return true, nil
}

// unlink deletes n, which is an empty directory or none, from the directory in.
func (j *job) unlink(in, n *node, name, rel string) error {
	if err := j.gate(rel, Block); err != nil {
		return err
	}
	if err := j.unlock(in, parent(rel)); err != nil {
		return err
	}
	if err := j.unlock(n, rel); err != nil {
		return err
	}
	flags := 0
	if n.isDir() {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(in.fd, name, flags); err != nil {
		return j.targetError("delete", rel, err)
	}
	return nil
}

// parent returns the path of the directory that holds the entry rel. Both are relative to the root.
func parent(rel string) string {
	return rel[:max(0, strings.LastIndexByte(rel, '/'))]
}

// emptyDir deletes what is in a directory of `to`, and reports whether all of it is gone. Some file systems leave out
// names while others are deleted, so the directory is read again until nothing more was deleted.
func (j *job) emptyDir(n *node, rel string) (bool, error) {
	for {
		removed, kept := 0, 0
		for name, err := range n.eachName() {
			if err != nil {
				return false, j.targetError("list", rel, err)
			}
			gone, err := j.remove(n, name, rel+"/"+name)
			switch {
			case err != nil:
				return false, err
			case gone:
				removed++
			default:
				kept++
			}
		}
		if removed == 0 {
			return kept == 0, nil
		}
	}
}

// removeTo deletes whatever has the entry's name in `to`, so that something else can be made under that name.
func (j *job) removeTo(e *entry) error {
	gone, err := j.remove(e.in.to, e.name, e.rel)
	if err != nil {
		return err
	}
	if !gone {
		return fault.New(fault.Busy, "%s must be replaced, but something in it is mounted or must be skipped",
			j.targetPath(e.rel)).
			WithHint("unmount what is mounted there: findmnt -R %s", j.targetPath(e.rel))
	}
	e.closeTo()
	return nil
}
