//go:build lab

package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestPackage installs the Debian package. A timer makes a backup, and the metrics have it. Then the package is
// upgraded and removed while a rollback is deferred to the next boot: the kept copy of the program finishes the
// rollback. When the package is purged after that, nothing but the journal is left.
func TestPackage(t *testing.T) {
	tortured(t)
	onlyOn(t, "d12")
	g := guestFor(t)
	packages, err := filepath.Glob(filepath.Join(root, "build/packages/rewind_*_amd64.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("make packages builds one package: %q, %v", packages, err)
	}
	data, err := os.ReadFile(packages[0])
	if err != nil {
		t.Fatal(err)
	}
	g.prepare(t, noteStarts+"\n"+takeAndHarm+"\n"+makeRepositories,
		"systemctl stop rw-keeper 2>/dev/null; dpkg -P rewind; rm -rf /root/rewind.deb /var/lib/prometheus\n"+
			stopNotingStarts+"\n"+removeRepositories)
	if _, err := g.ssh("cat >/root/rewind.deb", data); err != nil {
		t.Fatal(err)
	}
	const install = "dpkg -i /root/rewind.deb 2>&1"
	g.run(t, install+"; man -w lvm_merge; mkdir -p /var/lib/prometheus/node-exporter")
	timers := g.run(t, "systemctl list-unit-files --no-legend 'rewind-*.timer'")
	if strings.Contains(timers, " enabled ") {
		t.Errorf("a timer is enabled: %s", timers)
	}

	const schedule = `/usr/sbin/snap_backup action=schedule name=nightly volumes=/pccehr calendar="*:*:0/5" spread=0 `
	g.ok(t, schedule+repositories["mirror"])
	if hidden := g.run(t, "ls /etc/systemd/system | grep @.*rewind-backup@\\\\. ; true"); hidden != "" {
		t.Errorf("the package's units are overridden by %s", hidden)
	}
	g.eventually(t, "a backup by the timer",
		`/usr/sbin/lvm_snapshot_info name=nightly --json | grep -q '"state":"ok"'`, 2*time.Minute)
	g.ok(t, `/usr/sbin/snap_backup action=unschedule name=nightly`)
	g.eventually(t, "the end of the last backup", noRunLeft, time.Minute)
	g.run(t, "systemctl start rewind-textfile.service")
	sample := regexp.MustCompile(`volumes="/pccehr",place="[0-9a-f]*"} 1`)
	if metrics := g.run(t, "cat /var/lib/prometheus/node-exporter/rewind.prom"); !sample.MatchString(metrics) {
		t.Errorf("the metrics lack the backup:\n%s", metrics)
	}

	g.run(t, "systemd-run -q --unit=rw-keeper --working-directory=/dat sleep infinity")
	if r := g.ok(t, "/usr/sbin/"+rollBackBoth+" when_busy=defer"); r["state"] != "deferred" {
		t.Fatalf("want deferred: %s", r)
	}
	g.eventually(t, "the end of the run", noRunLeft, 30*time.Second)
	g.run(t, install+" && dpkg -r rewind && ls /var/lib/rewind/bin/rewind-* && sync")
	g.cutPower(t)
	g.checkVolumesHold(t, "kept")
	g.eventually(t, "the end of the merges", `test -z "$(lvs --noheadings -o origin vg00 | tr -d ' \n')" &&
! ls -R /etc/systemd/system | grep rewind`, settleLimit)

	g.run(t, "systemctl reset-failed; dpkg -P rewind")
	left := g.run(t, `ls -A /var/lib/rewind
find / -xdev -name '*rewind*' ! -name 'pg_rewind*' ! -path '/proc/*' ! -path '/root/*' ! -path '/srv/*' \
! -path '/var/log/*' ! -path '/usr/local/bin/*' ! -path /var/lib/rewind`)
	if left != "journal" {
		t.Errorf("left:\n%s", left)
	}
	g.checkTidy(t)
}
