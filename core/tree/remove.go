package tree

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
	"golang.org/x/sys/unix"
)

// remove deletes an entry of `to` and all below it, but for what is skipped and what is mounted there. It reports
// whether the entry is gone.
func (j *job) remove(in *node, name, rel string) (bool, error) {
	if err := j.alive(rel); err != nil || j.skip[rel] {
		return false, err
	}
	n, err := in.childIfAny(name)
	if n == nil || err != nil {
		return err == nil, j.failed("delete", rel, err)
	}
	defer n.close()
	if n.mounted(in) {
		j.warnings.add(j.target(rel) + ": a mount point, left as it is")
		return false, nil
	}
	if n.flags() != 0 {
		j.flagged.add(printable(rel))
	}
	flags := 0
	if n.isDir() {
		if empty, err := j.empty(n, rel); !empty || err != nil {
			return false, err
		}
		flags = unix.AT_REMOVEDIR
	}
	if err := j.gate(rel, Block); err != nil {
		return false, err
	}
	if err := j.unlock(in, parent(rel)); err != nil {
		return false, err
	}
	if err := j.unlock(n, rel); err != nil {
		return false, err
	}
	if err := unix.Unlinkat(in.fd, name, flags); err != nil {
		return false, j.failed("delete", rel, err)
	}
	if n.isDir() || n.st.Nlink < 2 {
		delete(j.locked, n.id())
	}
	j.done.Deleted++
	j.report(rel)
	return true, nil
}

// parent is the path of the directory that an entry is in, relative to the root as well.
func parent(rel string) string {
	return rel[:max(0, strings.LastIndexByte(rel, '/'))]
}

// empty deletes what is in a directory of `to` and reports whether all of it is gone.
func (j *job) empty(n *node, rel string) (bool, error) {
	for {
		removed, kept := 0, 0
		for name, err := range n.each() {
			if err != nil {
				return false, j.failed("list", rel, err)
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

// clear deletes what has the entry's name in `to`, so that something else can be made there.
func (j *job) clear(e *entry) error {
	gone, err := j.remove(e.in.to, e.name, e.rel)
	if err != nil {
		return err
	}
	if !gone {
		return fault.New(fault.Busy, "%s must be replaced, and there is a mount point or something to be skipped in it", j.target(e.rel)).
			WithHint("unmount what is mounted there: findmnt -R %s", j.target(e.rel))
	}
	e.gone()
	return nil
}
