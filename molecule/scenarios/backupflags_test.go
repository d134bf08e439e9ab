//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// flagged makes files and directories that chattr has shut, on ext4 and on XFS, and one with a project id where that is
// to be had.
const flagged = `for v in /pccehr /dat; do mkdir -p $v/flags/dir && cd $v/flags && echo one >append &&
echo fixed >immutable && echo kept >dir/kept && echo gone >gone && echo plain >plain &&
chattr +a append && chattr +i immutable dir gone && chattr +d plain || exit 1; done
cd /dat/flags && echo project >project && xfs_io -c 'chproj 42' project`

// harmFlagged changes all of them, and makes more.
const harmFlagged = `for v in /pccehr /dat; do cd $v/flags && echo two >>append && chattr -i immutable dir gone &&
echo other >immutable && rm dir/kept gone && echo new >dir/new && mkdir extra && echo x >extra/x &&
chattr +i extra/x extra immutable dir && chattr -d plain || exit 1; done
echo other >/dat/flags/project; sync`

const noFlagged = `for v in /pccehr /dat; do chattr -Rf -i -a $v/flags; rm -rf $v/flags; done`

// showFlagged prints the content and the flags of all of them in a directory.
const showFlagged = `show() { (cd $1/flags && find . | sort | while read -r f; do
echo "$f $(lsattr -d $f | cut -d' ' -f1 | tr -cd iad) $(cat $f 2>/dev/null | tr '\n' ' ')"; done); }
`

// TestRestoreOfShutFiles restores over files and directories that are immutable or append-only: from a backend that
// keeps such flags, from the record of a backup in one that does not, and without that record.
func TestRestoreOfShutFiles(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.scratch(t, makeRepositories+"\n"+flagged,
		noFlagged+"; lvm_snapshot name=restore state=absent >/dev/null; "+removeRepositories)
	before := g.run(t, showFlagged+"show /pccehr; show /dat")
	backends := []string{"rsync", "mirror"}
	for _, backend := range backends {
		g.ok(t, "snap_backup volumes=/pccehr,/dat "+repositories[backend])
	}
	g.run(t, harmFlagged)
	for _, backend := range append(backends, "rsync without a record") {
		backend, _, unrecorded := strings.Cut(backend, " ")
		if unrecorded {
			g.run(t, "rm -r /var/lib/rewind/records")
		}
		r := g.ok(t, "snap_backup action=restore "+repositories[backend])
		g.ok(t, "lvm_snapshot name=restore state=mounted")
		const at = "/run/rewind/mounts/restore/vg00/"
		const project = at + "dat/flags/project"
		got := g.run(t, showFlagged+"show "+at+"pccehr; show "+at+"dat; cat "+project+"; lsattr -p "+project)
		want, said := before, false
		if unrecorded { // what was made anew has no flags, and what is in its place those it had
			want = strings.NewReplacer("./gone i", "./gone ", "./plain d", "./plain ").Replace(want)
			said = true
		}
		if files, _, _ := strings.Cut(got, "\nproject\n"); strings.TrimSpace(files) != strings.TrimSpace(want) {
			t.Errorf("%s restored\n%s\nwant\n%s", backend, files, want)
		}
		if fields := strings.Fields(got); len(fields) < 3 || fields[len(fields)-3] != "42" {
			t.Errorf("%s: the project id of what stayed in its place: %s", backend, got)
		}
		warning := fmt.Sprint(r["warnings"])
		if strings.Contains(warning, "backend rsync keeps no inode flags") != said {
			t.Errorf("%s: warnings %s", backend, warning)
		}
		if said && !(strings.Contains(warning, "/pccehr/flags/") && strings.Contains(warning, "/dat/flags/")) {
			t.Errorf("%s names no files: %s", backend, warning)
		}
		g.ok(t, "lvm_snapshot name=restore state=absent")
		t.Logf("%s: %s", backend, r.msg())
	}
	g.nothingLeft(t)
}
