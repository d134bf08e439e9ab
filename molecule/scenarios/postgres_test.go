//go:build lab

package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	// version and data are the version and the data directory of the guest's cluster.
	clusterVariables = `version=$(ls /usr/lib/postgresql); data=/dat/postgresql/$version/main; `

	stopDatabase  = `systemctl stop pccehr postgresql "postgresql@$version-main"; `
	startDatabase = `systemctl start postgresql pccehr; ` + allActive + `; `

	// The archive refuses a name that it has already, as PostgreSQL's manual advises.
	archiveWAL = clusterVariables + `
mkdir -p /srv/archive; chown postgres /srv/archive
cat >/etc/postgresql/$version/main/conf.d/archive.conf <<'EOF'
archive_mode = on
archive_command = 'test ! -f /srv/archive/%f && cp %p /srv/archive/%f'
EOF
systemctl restart "postgresql@$version-main"`

	archiveNothing = clusterVariables + `
lvm_snapshot state=absent >/dev/null 2>&1
rm -f /etc/postgresql/$version/main/conf.d/archive.conf
systemctl restart "postgresql@$version-main"; rm -rf /srv/archive`

	switchWAL = `psql -qAtd dat -c 'UPDATE patient SET name = name WHERE id = 1' -c 'SELECT pg_switch_wal()' \
	>/dev/null; `

	archiverStatistics = `psql -Atd dat -c "SELECT archived_count > 0, failed_count FROM pg_stat_archiver"`
)

// newTimeline returns the script of docs/postgresql.md, for the guest's cluster.
func newTimeline(t *testing.T, g guest) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/postgresql.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```sh\n")
	script, _, found := strings.Cut(script, "```")
	if !found {
		t.Fatal("docs/postgresql.md has no script")
	}
	return strings.ReplaceAll(script, "/15/", "/"+g.run(t, "ls /usr/lib/postgresql")+"/")
}

// rollBackArchiving takes a set of a cluster that archives its WAL, has it archive more, and rolls it back. The
// services are left stopped.
func rollBackArchiving(t *testing.T, g guest) {
	t.Helper()
	g.ok(t, "lvm_snapshot volumes=/dat,/pccehr size=256m")
	files := g.run(t, "ls /srv/archive | wc -l")
	g.run(t, switchWAL+switchWAL)
	g.eventually(t, "WAL of after the set in the archive",
		"test $(ls /srv/archive | wc -l) -ge $(("+files+"+2))", reachLimit)
	r := g.ok(t, "lvm_merge services=pccehr,postgresql start_services=false wait=true")
	if warnings := fmt.Sprint(r["warnings"]); !strings.Contains(warnings, "archives its WAL") {
		t.Errorf("warnings: %q", warnings)
	}
}

// TestArchiveGoesOnInANewTimeline rolls a cluster back that archives its WAL. With the script of docs/postgresql.md it
// begins a new timeline, three times, and the archive takes everything. Without it the archive refuses what the cluster
// writes.
func TestArchiveGoesOnInANewTimeline(t *testing.T) {
	tortured(t)
	g := guestFor(t)
	g.prepare(t, archiveWAL, archiveNothing)
	script := newTimeline(t, g)
	g.run(t, switchWAL)
	g.eventually(t, "the first file in the archive", "ls /srv/archive/00000001*", reachLimit)
	for _, number := range []string{"2", "3", "4"} {
		rollBackArchiving(t, g)
		if got := g.run(t, script); got != "timeline "+number {
			t.Fatalf("the script says %q, want timeline %s", got, number)
		}
		g.run(t, startDatabase+switchWAL)
		g.eventually(t, "the history and WAL of timeline "+number+" in the archive",
			fmt.Sprintf("ls /srv/archive/0000000%[1]s.history /srv/archive/0000000%[1]s0*", number), reachLimit)
		if got := g.run(t, archiverStatistics); got != "t|0" {
			t.Errorf("timeline %s: archived, failed: %s", number, got)
		}
	}
	rollBackArchiving(t, g)
	g.run(t, startDatabase+switchWAL)
	g.eventually(t, "the archive to refuse WAL", archiverStatistics+" | grep -vx '.|0'", reachLimit)
}

// TestClusterOnSeveralVolumes moves the WAL of the guest's cluster to another volume. A set of the one alone is
// refused, before anything is taken; a set of both is taken, and both go back.
func TestClusterOnSeveralVolumes(t *testing.T) {
	playedOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, clusterVariables+stopDatabase+`
lvcreate -qqy -Wn -L 384M -n wal vg01; mkfs.ext4 -q /dev/vg01/wal; mkdir -p /wal; mount /dev/vg01/wal /wal
mv $data/pg_wal /wal/$version; ln -s /wal/$version $data/pg_wal; `+startDatabase, clusterVariables+`
lvm_snapshot state=absent >/dev/null 2>&1; rm -rf /srv/wal-backup
`+stopDatabase+`
rm $data/pg_wal; cp -a /wal/$version $data/pg_wal; umount /wal; lvremove -qqy vg01/wal; rmdir /wal; `+startDatabase)
	for _, call := range []string{
		"lvm_snapshot volumes=/dat,/pccehr", "lvm_snapshot volumes=/dat,/pccehr --check", "lvm_snapshot volumes=/wal",
	} {
		msg := g.fails(t, call, "outside_volume").msg()
		if !strings.Contains(msg, "vg01/wal") || !strings.Contains(msg, "vg00/dat") {
			t.Errorf("%s: %s", call, msg)
		}
	}
	g.run(t, "mkdir -p /srv/wal-backup")
	backup := g.ok(t, "snap_backup volumes=/dat backend_options=path=/srv/wal-backup")
	if warnings := fmt.Sprint(backup["warnings"]); !strings.Contains(warnings, "only a part is stored") {
		t.Errorf("a backup of the one: warnings %q", warnings)
	}
	if left := g.run(t, "lvs --noheadings -o lv_name | grep -c snap || true"); left != "0" {
		t.Errorf("%s snapshots were taken all the same", left)
	}
	g.fails(t, "lvm_snapshot volumes=/dat,/wal consistency=volume", "unsupported")
	g.ok(t, "lvm_snapshot name=half volumes=/dat postgresql=none size=64m")
	g.fails(t, "lvm_merge name=half services=pccehr,postgresql --check", "outside_volume")
	g.ok(t, "lvm_snapshot name=half state=absent")
	g.ok(t, "lvm_snapshot volumes=/dat,/wal size=128m")
	g.run(t, `psql -qd dat -c 'DELETE FROM patient'`)
	g.ok(t, "lvm_merge services=pccehr,postgresql wait=true")
	if got := g.run(t, `psql -Atd dat -c 'SELECT count(*) FROM patient'`); got != "2000" {
		t.Errorf("after the rollback of both there are %s patients", got)
	}
}
