package info

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// writeMetrics replaces the file at path; if check is true it only looks whether it could. Everybody may read the file,
// because the node exporter does not run as root. The directory must exist: if a misspelt one were made, nobody would
// read the metrics in it. Fault: not_found.
func writeMetrics(path, text string, check bool) error {
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fault.New(fault.NotFound, "textfile: %w", err).
			WithHint("it is the directory that the node exporter is started with: --collector.textfile.directory")
	}
	if check {
		return nil
	}
	return durable.WriteFile(path, []byte(text), 0o644)
}

// formatMetrics returns the metrics in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details).
func formatMetrics(i *snapset.Info, current []journey.Status, backups []backup, unbegun []notBegun,
	scheduled []scheduledBackup, warnings []string) string {
	m := &exposition{}
	m.family("rewind_warnings", "How many warnings lvm_snapshot_info has, such as of what it cannot read.")
	m.sample(float64(len(warnings)))
	m.sets(i, current)
	m.snapshots(i)
	m.backups(backups)
	m.family("rewind_backup_not_begun", "1 for each scheduled backup whose unit was started and began no backup.")
	for _, u := range unbegun {
		m.sample(1, "name", u.Name)
	}
	m.family("rewind_backup_scheduled", "Whether the timer of a scheduled backup is active: 1 or 0.")
	for _, s := range scheduled {
		m.sample(boolValue(s.Problem == ""), "name", s.Name)
	}
	return m.String()
}

func (m *exposition) sets(i *snapset.Info, current []journey.Status) {
	m.family("rewind_set_state", "Whether a set of snapshots is in that state: 1 or 0.")
	for _, s := range i.Sets {
		for _, state := range []string{snapset.SetOK, snapset.SetMerging, snapset.SetIncomplete, snapset.SetBad} {
			m.sample(boolValue(s.State == state), "set", s.Name, "state", state)
		}
	}
	m.family("rewind_set_at_work",
		"1 for each set that a run takes, fills, backs up, rolls back to or removes; it may be incomplete meanwhile.")
	for _, s := range i.Sets {
		if isAtWorkOn(current, s.Name) {
			m.sample(1, "set", s.Name)
		}
	}
	m.family("rewind_set_timestamp_seconds", "The instant of a set of snapshots.")
	for _, s := range i.Sets {
		m.time(s.Time, "set", s.Name)
	}
}

func (m *exposition) snapshots(i *snapset.Info) {
	snapshotFamily := func(value func(*snapset.SnapshotInfo) *float64) {
		eachSnapshot(i, func(set string, s *snapset.SnapshotInfo) {
			if v := value(s); v != nil {
				m.sample(*v, "set", set, "snapshot", s.Snapshot, "volume", s.Volume)
			}
		})
	}
	m.family("rewind_cow_used_ratio", "How much of a snapshot's COW space is used, 0 to 1. At 1 it has overflowed.")
	snapshotFamily(func(s *snapset.SnapshotInfo) *float64 { return scaled(s.UsedPercent, 0.01) })
	m.family("rewind_seconds_to_full", "When a snapshot's COW space is used up, at the mean rate since it was taken.")
	snapshotFamily(func(s *snapset.SnapshotInfo) *float64 {
		if s.ToFull == nil {
			return nil
		}
		seconds := float64(*s.ToFull)
		return &seconds
	})
}

func (m *exposition) backups(backups []backup) {
	m.family("rewind_last_backup_success",
		"Whether the last backup that ended succeeded: 1 or 0; 0 also for one that was killed.")
	for _, b := range slices.Backward(backups) { // backwards: of jobs with the same labels the first sample is kept
		if b.State != backupRunning {
			m.sample(boolValue(b.State == backupOK), "name", b.Name, "backend", b.Backend,
				"volumes", strings.Join(b.Asked, ","), "place", b.Place)
		}
	}
	m.family("rewind_last_backup_timestamp_seconds",
		"The instant of the last good backup of a volume; 0: there is none, or it is dated later than now.")
	for _, v := range newestBackups(backups) {
		m.sample(float64(v.at), "name", v.name, "backend", v.backend, "volume", v.volume, "place", v.place)
	}
}

// volumeBackup says at which instant, in seconds since 1970, the last good backup of a volume was taken. 0: there is
// none.
type volumeBackup struct {
	name, backend, volume, place string
	at                           int64
}

// newestBackups returns a volumeBackup for each volume in the last good backup of a job, or, if the job has no good
// backup, for each volume that it was asked to back up. Jobs of one name may share volumes; of these the newest backup
// counts.
func newestBackups(backups []backup) (all []volumeBackup) {
	add := func(v volumeBackup) {
		same := func(o volumeBackup) bool {
			return o.name == v.name && o.backend == v.backend && o.volume == v.volume && o.place == v.place
		}
		if i := slices.IndexFunc(all, same); i >= 0 {
			all[i].at = max(all[i].at, v.at)
			return
		}
		all = append(all, v)
	}
	for _, b := range backups {
		volumes, at := b.Asked, int64(0)
		if b.Good != nil {
			volumes = b.Good.Volumes
			if t, err := time.Parse(time.RFC3339, b.Good.Time); err == nil && b.Age != nil { // dated later than now if nil
				at = t.Unix()
			}
		}
		for _, volume := range volumes {
			add(volumeBackup{b.Name, b.Backend, volume, b.Place, at})
		}
	}
	return all
}

// eachSnapshot calls fn with every snapshot and the name of its set, which is empty for a snapshot of no set.
func eachSnapshot(i *snapset.Info, fn func(set string, s *snapset.SnapshotInfo)) {
	for _, set := range i.Sets {
		for j := range set.Snapshots {
			fn(set.Name, &set.Snapshots[j])
		}
	}
	for j := range i.Unmanaged {
		fn("", &i.Unmanaged[j])
	}
}

// exposition builds the text, one metric family after the other.
type exposition struct {
	strings.Builder
	name, help string   // of the present family
	labelSets  []string // the labels of the samples of the present family
}

// family begins a family of gauges. A family without samples is not written.
func (e *exposition) family(name, help string) { e.name, e.help, e.labelSets = name, help, nil }

// sample writes a value with labels, which are given as names and values in turn. If there is a sample with the same
// labels already, nothing is written: the node exporter refuses a whole file if it has such a sample.
func (e *exposition) sample(value float64, labels ...string) {
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+"="+quoteLabel(labels[i+1]))
	}
	labelled := strings.Join(pairs, ",")
	if slices.Contains(e.labelSets, labelled) {
		return
	}
	if len(e.labelSets) == 0 {
		fmt.Fprintf(e, "# HELP %s %s\n# TYPE %[1]s gauge\n", e.name, e.help)
	}
	e.labelSets = append(e.labelSets, labelled)
	if labelled != "" {
		labelled = "{" + labelled + "}"
	}
	fmt.Fprintf(e, "%s%s %s\n", e.name, labelled, strconv.FormatFloat(value, 'f', -1, 64))
}

func (e *exposition) time(stamp string, labels ...string) {
	if t, err := time.Parse(time.RFC3339, stamp); err == nil {
		e.sample(float64(t.Unix()), labels...)
	}
}

// quoteLabel quotes the value of a label. A mount point may contain any byte but zero.
func quoteLabel(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, `\`, `\\`)
	s = strings.ReplaceAll(s, "\n", `\n`)
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// scaled returns the product of a value and a factor, and nil if there is no value.
func scaled(v *float64, factor float64) *float64 {
	if v == nil {
		return nil
	}
	product := math.Round(*v*factor*1e4) / 1e4
	return &product
}
