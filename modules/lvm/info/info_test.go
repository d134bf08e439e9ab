package info

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup/jobs"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

func percent(p float64) *float64 { return &p }

func exampleInfo() *snapset.Info {
	return &snapset.Info{
		Host: snapset.Host{Usable: true, Kernel: "6.12.5", LVM: "2.03.31(2)", Systemd: true,
			Modules: map[string]string{"dm_snapshot": "loaded", "dm_thin_pool": "loadable"}},
		Groups: []snapset.GroupInfo{{Name: "vg00", Size: 6 << 30, Free: 4 << 30, Pools: []snapset.PoolInfo{
			{Pool: "vg00/pool", Size: 1 << 30, Data: percent(96), Metadata: percent(4),
				Problem: "no data space is left in the thin pool"},
		}}},
		Sets: []snapset.SetInfo{{Name: "snap", State: snapset.SetMerging, Age: 3700, Consistency: "volume",
			Snapshots: []snapset.SnapshotInfo{{
				Snapshot: "vg00/dat_snap", Volume: "vg00/dat", State: "merging", Age: 3700, COW: 200 << 20, Used: 20 << 20,
				UsedPercent: percent(10),
				Merge:       &snapset.MergeInfo{State: snapset.MergeRunning, Left: 10 << 20, Percent: percent(50)},
			}}}},
		Unmanaged: []snapset.SnapshotInfo{{
			Snapshot: "vg00/byhand", Volume: "vg00/app", State: "invalid", Age: 5, COW: 32 << 20, Used: 32 << 20,
			UsedPercent: percent(100),
			Problem:     "its COW space overflowed, so what it held is lost", Mountpoints: []string{"/mnt"},
		}},
		Mounts: []snapset.MountInfo{{Point: "/dat", Volume: "vg00/dat", Stack: []snapset.Layer{
			{Kind: "fs", Name: "xfs"}, {Kind: "crypt", Name: "secret"}, {Kind: "lvm", Name: "vg00-dat"},
			{Kind: "pv", Name: "sda2"}}}},
	}
}

// lookTime is the time at which the example backups are looked at.
var lookTime = time.Date(2026, 3, 4, 5, 0, 1, 0, time.UTC)

func exampleBackups() []backup {
	return []backup{
		withState(jobs.Job{Name: "nightly", Backend: "mirror", Host: "db1", Asked: []string{"/dat", "/boot"},
			Unit:  "rewind-1.service",
			Begun: "2026-03-04T02:00:00Z", Ended: "2026-03-04T02:10:00Z",
			Good: &jobs.Good{ID: "20260304T020001Z-db1", Time: "2026-03-04T02:00:01Z", Volumes: []string{"/dat", "/boot"}}},
			nil, lookTime),
		withState(jobs.Job{Name: "weekly", Backend: "restic", Host: "db1", Asked: []string{"/dat"}, Unit: "rewind-2.service",
			Begun: "2026-03-04T02:00:00Z", Ended: "2026-03-04T02:05:00Z", Code: fault.NoSpace, Msg: "the repository is full",
			File: "/var/lib/rewind/jobs/weekly-1.json", Place: "17"}, nil, lookTime),
	}
}

// A backup without a recorded end is running as long as its unit is, and interrupted otherwise.
func TestBackupWithoutEndIsRunningOrInterrupted(t *testing.T) {
	j, now := jobs.Job{Name: "nightly", Unit: "rewind-1.service", Begun: "2026-03-04T02:00:00Z"}, time.Now()
	if b := withState(j, []journey.Status{{Unit: "rewind-1.service"}}, now); b.State != backupRunning || b.Age != nil {
		t.Errorf("its unit is active: %+v", b)
	}
	if b := withState(j, []journey.Status{{Unit: "rewind-2.service"}}, now); b.State != backupInterrupted {
		t.Errorf("only another unit is active: %+v", b)
	}
}

// A scheduled backup that fails after its beginning records that itself. If it never begins, only its failed unit shows
// it.
func TestScheduledBackupThatDidNotBeginIsFound(t *testing.T) {
	at := time.Date(2026, 3, 4, 2, 0, 0, 700, time.UTC)
	failed := map[string]time.Time{"rewind-backup@d.service": at, "rewind-backup@a.service": at,
		"rewind-backup@b.service": at, "rewind-backup@c.service": at}
	list := []backup{
		{Job: jobs.Job{Name: "a", Begun: "2026-03-04T02:00:00Z"}},
		{Job: jobs.Job{Name: "b", Begun: "2026-03-04T01:59:59Z"}},
		{Job: jobs.Job{Name: "d", Begun: "2026-03-04T01:59:59Z", Ended: "2026-03-04T02:00:09Z"}},
	}
	want := []notBegun{
		{"b", "rewind-backup@b.service", "2026-03-04T02:00:00Z"}, {"c", "rewind-backup@c.service", "2026-03-04T02:00:00Z"},
	}
	if got := filterNotBegun(failed, list); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// A schedule that nobody has ended has a drop-in. If its timer is not active, no backup is made and nothing fails.
func TestStoppedTimerOfAScheduleIsFound(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"nightly", "weekly"} {
		path := filepath.Join(dir, "rewind-backup@"+name+".timer.d/when.conf")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 3, 5, 2, 0, 0, 0, time.UTC)
	due := map[string]time.Time{"rewind-backup@nightly.timer": at, "rewind-backup@once.timer": {}}
	stopped := withStopped(due, filepath.Join(dir, "rewind-backup@*.timer.d/when.conf"))
	want := []scheduledBackup{
		{Name: "nightly", Timer: "rewind-backup@nightly.timer", Next: "2026-03-05T02:00:00Z"},
		{Name: "once", Timer: "rewind-backup@once.timer"},
		{Name: "weekly", Timer: "rewind-backup@weekly.timer",
			Problem: "its timer is not active: systemctl status rewind-backup@weekly.timer"},
	}
	if diff := cmp.Diff(want, listScheduled(due, stopped)); diff != "" {
		t.Error(diff)
	}
}

// A systemd that does not answer is no reason to say that nothing is scheduled.
func TestSystemdThatDoesNotAnswerIsAWarning(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for runsSystemd, want := range map[bool]int{true: 1, false: 0} {
		scheduled, unbegun, warnings := readSchedules(ctx, nil, runsSystemd)
		if len(warnings) != want || len(scheduled)+len(unbegun) > 0 {
			t.Errorf("systemd runs: %v; %q, %v, %v", runsSystemd, warnings, scheduled, unbegun)
		}
	}
}

// A backup that was made while the clock was fast is dated later than now, and has no age.
func TestBackupDatedInFutureHasNoAge(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	b := withState(jobs.Job{Ended: "x", Good: &jobs.Good{ID: "one", Time: "2026-03-05T02:00:00Z"}}, nil, now)
	if b.Age != nil || !strings.Contains(b.goodText(), "later than now") {
		t.Errorf("%+v: %s", b, b.goodText())
	}
}

// times are shown in the local time zone, which must be the same wherever this runs
func init() { time.Local = time.UTC }

// printResult writes the same for a new result and for one that was read from JSON.
func TestPrintResultFreshOrFromFile(t *testing.T) {
	i, half, backups := exampleInfo(), 50.0, exampleBackups()
	unbegun := []notBegun{{"monthly", "rewind-backup@monthly.service", "2026-11-23T02:00:00Z"}}
	current := []journey.Status{{Kind: "rollback", Title: "roll back to set snap", Unit: "rewind-1.service",
		Begun: "2026-11-23T20:34:46Z", Label: "merging", Percent: &half}}
	scheduled := []scheduledBackup{
		{Name: "nightly", Timer: "rewind-backup@nightly.timer", Next: "2026-11-24T02:13:00Z"},
		{Name: "once", Timer: "rewind-backup@once.timer"},
		{Name: "weekly", Timer: "rewind-backup@weekly.timer", Problem: "its timer is not active: systemctl status x"},
	}
	data := map[string]any{
		"host": i.Host, "groups": i.Groups, "sets": i.Sets, "unmanaged": i.Unmanaged, "mounts": i.Mounts,
		"last_rollback": &rollback.Last{Set: "snap", Begun: "2026-11-23T20:34:46Z", Outcome: "unfinished", Step: "started",
			Downtime: 9400},
		"under_way": current, "backups": backups,
		"backups_not_begun": unbegun,
		"backups_scheduled": scheduled,
	}

	fresh := ansible.Result{Msg: summary(i, current, backups, unbegun, scheduled), Data: data}
	var stored ansible.Result
	text, err := json.Marshal(fresh)
	if err == nil {
		err = json.Unmarshal(text, &stored)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := `sets: 1, other snapshots: 1; snap is merging, backup weekly failed, ` +
		`scheduled backup monthly did not begin, scheduled backup weekly is not made; under way: roll back to set snap

kernel 6.12.5, LVM 2.03.31(2), dm_snapshot loaded, dm_thin_pool loadable
volume group vg00: 6.0 GiB, 4.0 GiB free
  thin pool vg00/pool: 1.0 GiB, 96.0% of its data and 4.0% of its metadata used: no data space is left in the thin pool

under way since 2026-11-23T20:34:46Z: roll back to set snap: merging, 50 % (rewind-1.service)

set snap, merging, 1 h 1 min old, each volume taken by itself
  vg00/dat_snap                of vg00/dat             merging    20.0 MiB of 200.0 MiB COW used (10.0%)  ` +
		`merge running, 10.0 MiB left (50% done)

snapshots of no set
  vg00/byhand                  of vg00/app             invalid        5 s old  ` +
		`32.0 MiB of 32.0 MiB COW used (100.0%)  on /mnt
    its COW space overflowed, so what it held is lost

/dat                 fs xfs > crypt secret > lvm vg00-dat > pv sda2

last backups
  nightly of /dat, /boot with mirror: ok; the last good one, 20260304T020001Z-db1, is 3 h 0 min old
  weekly of /dat with restic: failed at 2026-03-04T02:05:00Z: the repository is full; ` +
		`none was ever good (if this job is not wanted any more, remove /var/lib/rewind/jobs/weekly-1.json)
  monthly did not begin at 2026-11-23T02:00:00Z: journalctl -u rewind-backup@monthly.service says why

scheduled backups
  nightly is made at 2026-11-24T02:13:00Z (rewind-backup@nightly.timer)
  once is not made any more (rewind-backup@once.timer)
  weekly is not made, its timer is not active: systemctl status x (rewind-backup@weekly.timer)

last rollback: snap, 2026-11-23T20:34:46Z, done; the volumes are in use while LVM merges, services down for 9.4 s
`
	for name, r := range map[string]ansible.Result{"fresh": fresh, "stored": stored} {
		var out bytes.Buffer
		printResult(&out, r)
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestSummaryOfUnusableServer(t *testing.T) {
	i := &snapset.Info{Host: snapset.Host{Problems: []string{"this is a container (lxc): its volumes belong to its host"}}}
	got := summary(i, nil, nil, nil, nil)
	if !strings.Contains(got, "cannot") || !strings.Contains(got, "container (lxc)") {
		t.Error(got)
	}
}

// If the name of a set is misspelt, the summary must not look like that of a server without sets.
func TestSummaryOfUnknownSet(t *testing.T) {
	i := &snapset.Info{Host: snapset.Host{Usable: true}, None: `there is no set "snpa"; there is snap`}
	if got := summary(i, []journey.Status{{Title: "set snap: absent"}}, nil,
		nil, nil); got != i.None+"; under way: set snap: absent" {
		t.Error(got)
	}
}

func TestValidateNameAndTextfile(t *testing.T) {
	for _, bad := range []string{"a/b", "-x", "a b"} {
		if validate(args{Name: bad}) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	for _, bad := range []args{{Textfile: "rewind.prom"}, {Textfile: "/tmp/rewind"},
		{Textfile: "/tmp/rewind.prom", Name: "snap"}} {
		if validate(bad) == nil {
			t.Errorf("%+v is right", bad)
		}
	}
	for _, good := range []args{{}, {Textfile: "/tmp/rewind.prom"}} {
		if err := validate(good); err != nil {
			t.Error(err)
		}
	}
}
