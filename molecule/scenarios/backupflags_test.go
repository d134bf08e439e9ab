//go:build lab

package scenarios

import (
	"fmt"
	"strings"
	"testing"
)

// makeFlagged makes immutable and append-only files and directories on ext4 and on XFS (chattr(1)), and one with a
// project ID on XFS.
const makeFlagged = `for v in /pccehr /dat; do mkdir -p $v/flags/dir && cd $v/flags && echo one >append &&
echo fixed >immutable && echo kept >dir/kept && echo gone >gone && echo plain >plain &&
chattr +a append && chattr +i immutable dir gone && chattr +d plain || exit 1; done
cd /dat/flags && echo project >project && xfs_io -c 'chproj 42' project`

// harmFlagged changes what makeFlagged has made, and makes more.
const harmFlagged = `for v in /pccehr /dat; do cd $v/flags && echo two >>append && chattr -i immutable dir gone &&
echo other >immutable && rm dir/kept gone && echo new >dir/new && mkdir extra && echo x >extra/x &&
chattr +i extra/x extra immutable dir && chattr -d plain || exit 1; done
echo other >/dat/flags/project; sync`

const removeFlagged = `for v in /pccehr /dat; do chattr -Rf -i -a $v/flags; rm -rf $v/flags; done`

// defineShow defines the shell function show, which prints the flags and the content of these files below a directory.
const defineShow = `show() { (cd $1/flags && find . | sort | while read -r f; do
echo "$f $(lsattr -d $f | cut -d' ' -f1 | tr -cd iad) $(cat $f 2>/dev/null | tr '\n' ' ')"; done); }
`

// TestRestoreOfShutFiles restores over files and directories that are immutable or append-only. One backend keeps such
// flags. From one that does not, it restores the flags that the server has recorded at the backup, and then once more
// without that record.
func TestRestoreOfShutFiles(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, makeRepositories+"\n"+makeFlagged,
		removeFlagged+"; lvm_snapshot name=restore state=absent >/dev/null; "+removeRepositories)
	before := g.run(t, defineShow+"show /pccehr; show /dat")
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
		got := g.run(t, defineShow+"show "+at+"pccehr; show "+at+"dat; cat "+project+"; lsattr -p "+project)
		want := before
		if unrecorded { // what the restore has made anew has no flags, and what is still in its place has those it had
			want = strings.NewReplacer("./gone i", "./gone ", "./plain d", "./plain ").Replace(want)
		}
		if files, _, _ := strings.Cut(got, "\nproject\n"); strings.TrimSpace(files) != strings.TrimSpace(want) {
			t.Errorf("%s restored\n%s\nwant\n%s", backend, files, want)
		}
		if fields := strings.Fields(got); len(fields) < 3 || fields[len(fields)-3] != "42" {
			t.Errorf("%s: the project ID of the file that is still in its place: %s", backend, got)
		}
		warning := fmt.Sprint(r["warnings"])
		if strings.Contains(warning, "backend rsync keeps no inode flags") != unrecorded {
			t.Errorf("%s: warnings %s", backend, warning)
		}
		if unrecorded && !(strings.Contains(warning, "/pccehr/flags/") && strings.Contains(warning, "/dat/flags/")) {
			t.Errorf("%s names no files: %s", backend, warning)
		}
		g.ok(t, "lvm_snapshot name=restore state=absent")
		t.Logf("%s: %s", backend, r.msg())
	}
	g.checkNothingLeft(t)
}
