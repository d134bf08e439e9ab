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
	"go.pcc.com/rewind/core/snapset"
)

// writeMetrics replaces the file at path, which the node exporter reads as another user. Its directory must be there:
// who has it made by a misspelt path waits for metrics in vain.
func writeMetrics(path, text string) error {
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fault.New(fault.NotFound, "textfile: %w", err).
			WithHint("it is the directory that the node exporter is started with: --collector.textfile.directory")
	}
	return durable.WriteFile(path, []byte(text), 0o644)
}

// metrics are what was found as Prometheus reads it
// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details).
func metrics(i *snapset.Info, backups []backup, unbegun []notBegun) string {
	m := &exposition{}
	m.family("rewind_set_state", "Whether a set of snapshots is in that state: 1 or 0.")
	for _, s := range i.Sets {
		for _, state := range []string{snapset.SetOK, snapset.SetMerging, snapset.SetIncomplete, snapset.SetBad} {
			m.sample(boolean(s.State == state), "set", s.Name, "state", state)
		}
	}
	m.family("rewind_set_timestamp_seconds", "The instant that a set of snapshots is of.")
	for _, s := range i.Sets {
		m.time(s.Time, "set", s.Name)
	}
	shots := func(value func(*snapset.Shot) *float64) {
		each(i, func(set string, s *snapset.Shot) {
			if v := value(s); v != nil {
				m.sample(*v, "set", set, "snapshot", s.Snapshot, "volume", s.Volume)
			}
		})
	}
	m.family("rewind_cow_used_ratio", "How much of a snapshot's COW space is used, 0 to 1. At 1 it has overflowed.")
	shots(func(s *snapset.Shot) *float64 { return times(s.UsedPercent, 0.01) })
	m.family("rewind_seconds_to_full", "When a snapshot's COW space is used up, at the mean rate since it was taken.")
	shots(func(s *snapset.Shot) *float64 {
		if s.ToFull == nil {
			return nil
		}
		seconds := float64(*s.ToFull)
		return &seconds
	})
	m.family("rewind_last_backup_success", "Whether the last backup that ended succeeded: 1 or 0; 0 also for one that was killed.")
	for _, b := range slices.Backward(backups) { // of those that read alike the last that ran
		if b.State != backupRunning {
			m.sample(boolean(b.State == backupOK), "name", b.Name, "backend", b.Backend, "volumes", strings.Join(b.Asked, ","), "place", b.Place)
		}
	}
	m.family("rewind_last_backup_timestamp_seconds", "The instant that the last good backup of a volume is of; 0: there is none, or it is dated later than now.")
	for _, v := range newest(backups) {
		m.sample(float64(v.at), "name", v.name, "backend", v.backend, "volume", v.volume, "place", v.place)
	}
	m.family("rewind_backup_not_begun", "1 for each scheduled backup whose last start came to none.")
	for _, u := range unbegun {
		m.sample(1, "name", u.Name)
	}
	return m.String()
}

// stored is of when the last good backup of a volume is, in seconds since 1970.
type stored struct {
	name, backend, volume, place string
	at                           int64
}

// newest says so of each volume that a job has, or was asked for and never had. Jobs of one name may share volumes.
func newest(backups []backup) (all []stored) {
	add := func(v stored) {
		same := func(o stored) bool {
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
			if t, err := time.Parse(time.RFC3339, b.Good.Time); err == nil && b.Age != nil { // one that lies ahead is not fresh
				at = t.Unix()
			}
		}
		for _, volume := range volumes {
			add(stored{b.Name, b.Backend, volume, b.Place, at})
		}
	}
	return all
}

// each calls fn with every snapshot, and its set's name; of those that belong to no set it is empty.
func each(i *snapset.Info, fn func(set string, s *snapset.Shot)) {
	for _, set := range i.Sets {
		for j := range set.Snapshots {
			fn(set.Name, &set.Snapshots[j])
		}
	}
	for j := range i.Unmanaged {
		fn("", &i.Unmanaged[j])
	}
}

// exposition is the text, family by family.
type exposition struct {
	strings.Builder
	name, help string
	written    []string // the samples of the family, by their labels
}

// family begins a family of gauges. One without samples is not written.
func (e *exposition) family(name, help string) { e.name, e.help, e.written = name, help, nil }

// sample writes a value with labels: their names and values in turn. Two samples with the same labels would cost the
// reader the whole file: the first is written.
func (e *exposition) sample(value float64, labels ...string) {
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+"="+quoted(labels[i+1]))
	}
	labelled := strings.Join(pairs, ",")
	if slices.Contains(e.written, labelled) {
		return
	}
	if len(e.written) == 0 {
		fmt.Fprintf(e, "# HELP %s %s\n# TYPE %[1]s gauge\n", e.name, e.help)
	}
	e.written = append(e.written, labelled)
	fmt.Fprintf(e, "%s{%s} %s\n", e.name, labelled, strconv.FormatFloat(value, 'f', -1, 64))
}

func (e *exposition) time(stamp string, labels ...string) {
	if t, err := time.Parse(time.RFC3339, stamp); err == nil {
		e.sample(float64(t.Unix()), labels...)
	}
}

// quoted is a label's value. A mount point may have any byte but zero.
func quoted(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, `\`, `\\`)
	s = strings.ReplaceAll(s, "\n", `\n`)
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// times is nil where there is no value.
func times(v *float64, factor float64) *float64 {
	if v == nil {
		return nil
	}
	product := math.Round(*v*factor*1e4) / 1e4
	return &product
}
