// Package info is the module lvm_snapshot_info. It lists the sets of LVM snapshots with their states, the runs under
// way and the results of the last backups, and says what this server can do. It is called by Ansible or by hand. It
// changes nothing, except that it writes a file for Prometheus if that is asked for.
package info

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

type args struct {
	Name string `mapstructure:"name" doc:"Only the set of that name, and its last rollback."`
	VG   string `mapstructure:"vg" doc:"Only what is in that volume group, and no backups."`

	Textfile string `mapstructure:"textfile" doc:"A file in which to write the same as metrics for the node exporter of Prometheus, such as /var/lib/prometheus/node-exporter/rewind.prom. Nothing else is changed."`
}

// resultData is the Data of the result.
type resultData struct {
	snapset.Info
	Last    *rollback.Last   `json:"last_rollback"`
	Current []journey.Status `json:"under_way"`
	// Programs is the directory in which programs that change something keep and run a copy of themselves; empty if no
	// directory is fit for that.
	Programs string     `json:"program_dir"`
	Backups  []backup   `json:"backups"`
	NotBegun []notBegun `json:"backups_not_begun"`
	// Scheduled are the backups for which systemd has a timer on this server.
	Scheduled []scheduledBackup `json:"backups_scheduled"`
}

// Module returns the program lvm_snapshot_info.
func Module() ansible.Program { return module().Program() }

func module() ansible.Module[args] {
	return ansible.Module[args]{
		Name: "lvm_snapshot_info",
		Summary: "Lists sets of LVM snapshots, runs under way and the results of the last backups, and says what this " +
			"server can do.",
		Defaults: func() args { return args{} },
		Validate: validate,
		Run:      run,
		Print:    printResult,
		Examples: `  lvm_snapshot_info             everything
  lvm_snapshot_info name=snap   one set, and its last rollback
  lvm_snapshot_info --json      as data`,
	}
}

func validate(a args) error {
	var wrong []error
	if err := snapset.CheckName(a.Name); a.Name != "" && err != nil {
		wrong = append(wrong, ansible.Bad("name", "%v", err))
	}
	if a.Textfile != "" && !(filepath.IsAbs(a.Textfile) && strings.HasSuffix(a.Textfile, ".prom")) {
		wrong = append(wrong, ansible.Bad("textfile",
			"%q is no absolute path that ends in .prom, which the node exporter asks for", a.Textfile))
	}
	if a.Textfile != "" && a.Name+a.VG != "" {
		wrong = append(wrong, ansible.Bad("textfile", "has what the whole server has: leave name and vg out"))
	}
	return fault.All(wrong...)
}

func run(ctx context.Context, c ansible.Call, a args) (ansible.Result, error) {
	if err := journey.RequireRoot(); err != nil {
		return ansible.Result{}, err
	}
	var r ansible.Result
	last, damaged := rollback.Newest(journey.JournalDir, a.Name)
	if damaged != nil {
		r.Warnings = append(r.Warnings, damaged.Error())
	}
	current, err := journey.Current(ctx)
	if err != nil {
		r.Warnings = append(r.Warnings, "what is under way on this server cannot be found out: "+err.Error())
	}
	query := snapset.Query{Set: a.Name, VG: a.VG}
	if last != nil {
		query.Merging = last.Merging
	}
	commands := command.NewRecorder(command.Local{})
	info, err := snapset.Look(ctx, commands, query)
	r.Commands = commands.Commands()
	if err != nil {
		return r, err
	}
	r.Warnings = append(r.Warnings, info.Warnings...)
	programs, dirErr := journey.ProgramDir()
	if dirErr != nil {
		info.Host.Usable, info.Host.Problems = false, append(info.Host.Problems, dirErr.Error())
	}
	backups, damaged := readBackups(current, a)
	if damaged != nil {
		r.Warnings = append(r.Warnings, damaged.Error())
	}
	unbegun, scheduled := []notBegun{}, []scheduledBackup{}
	if a.Name+a.VG == "" {
		var unknown []string
		scheduled, unbegun, unknown = readSchedules(ctx, backups, info.Host.Systemd)
		r.Warnings = append(r.Warnings, unknown...)
	}
	r.Msg = summary(info, current, backups, unbegun, scheduled)
	r.Data = map[string]any{
		"host": info.Host, "groups": info.Groups, "sets": info.Sets, "unmanaged": info.Unmanaged, "mounts": info.Mounts,
		"last_rollback": last, "under_way": current, "program_dir": programs,
		"backups": backups, "backups_not_begun": unbegun, "backups_scheduled": scheduled,
	}
	if a.Textfile != "" {
		r.Changed = true
		warnings := slices.Concat(info.Host.Problems, r.Warnings)
		metrics := formatMetrics(info, current, backups, unbegun, scheduled, warnings)
		return r, writeMetrics(a.Textfile, metrics, c.Check)
	}
	return r, nil
}

func summary(
	i *snapset.Info, current []journey.Status, backups []backup, unbegun []notBegun, scheduled []scheduledBackup,
) string {
	if !i.Host.Usable {
		return "this server cannot be snapshotted: " + strings.Join(i.Host.Problems, "; ")
	}
	if i.None != "" {
		return i.None + underWayText(current)
	}
	var bad []string
	for _, s := range i.Sets {
		if s.State != snapset.SetOK && !(s.State == snapset.SetIncomplete && isAtWorkOn(current, s.Name)) {
			bad = append(bad, s.Name+" is "+s.State)
		}
	}
	for _, b := range backups {
		if b.State == backupFailed || b.State == backupInterrupted {
			bad = append(bad, "backup "+b.Name+" "+b.State)
		}
	}
	for _, u := range unbegun {
		bad = append(bad, "scheduled backup "+u.Name+" did not begin")
	}
	for _, s := range scheduled {
		if s.Problem != "" {
			bad = append(bad, "scheduled backup "+s.Name+" is not made")
		}
	}
	msg := fmt.Sprintf("sets: %d, other snapshots: %d", len(i.Sets), len(i.Unmanaged))
	if len(bad) > 0 {
		msg += "; " + strings.Join(bad, ", ")
	}
	return msg + underWayText(current)
}

func underWayText(current []journey.Status) (msg string) {
	for _, s := range current {
		msg += "; under way: " + s.Title
	}
	return msg
}

func printResult(w io.Writer, r ansible.Result) {
	fmt.Fprintln(w, r.Msg)
	var f resultData
	if r.Into(&f) != nil {
		return
	}
	h := f.Host
	fmt.Fprintf(w, "\nkernel %s, LVM %s, dm_snapshot %s, dm_thin_pool %s\n", h.Kernel, h.LVM, h.Modules["dm_snapshot"],
		h.Modules["dm_thin_pool"])
	if f.Programs != "" && f.Programs != journey.BinDir {
		fmt.Fprintf(w, "programs run from %s, because none can from %s\n", f.Programs, journey.BinDir)
	}
	for _, g := range f.Groups {
		fmt.Fprintf(w, "volume group %s: %s, %s free\n", g.Name, ansible.Bytes(g.Size), ansible.Bytes(g.Free))
		printPools(w, g.Pools)
	}
	for _, s := range f.Current {
		printRun(w, s)
	}
	for _, s := range f.Sets {
		fmt.Fprintf(w, "\nset %s, %s, %s old", s.Name, stateText(s, f.Current), ansible.Age(s.Age))
		if s.Restored != nil {
			fmt.Fprintf(w, ", holds %s", s.Restored)
		}
		if s.Consistency == "volume" {
			fmt.Fprint(w, ", each volume taken by itself")
		}
		fmt.Fprintln(w)
		printSnapshots(w, s.Snapshots, false)
	}
	if len(f.Unmanaged) > 0 {
		fmt.Fprintln(w, "\nsnapshots of no set")
		printSnapshots(w, f.Unmanaged, true)
	}
	if len(f.Mounts) > 0 {
		fmt.Fprintln(w)
	}
	for _, m := range f.Mounts {
		fmt.Fprintf(w, "%-20s %s\n", m.Point, stackText(m.Stack))
	}
	printBackups(w, f.Backups)
	printNotBegun(w, f.NotBegun)
	printScheduled(w, f.Scheduled)
	if l := f.Last; l != nil {
		fmt.Fprintf(w, "\nlast rollback: %s, %s, %s", l.Set, ansible.LocalTime(l.Begun),
			rollbackText(l, isAtWorkOn(f.Current, l.Set)))
		if l.Downtime > 0 {
			fmt.Fprintf(w, ", services down for %.1f s", float64(l.Downtime)/1000)
		}
		for _, f := range l.Failures {
			fmt.Fprintf(w, "; then %s", f.Error())
		}
		fmt.Fprintln(w)
	}
}

// isAtWorkOn reports whether a run that takes, fills or rolls back the set is under way.
func isAtWorkOn(current []journey.Status, set string) bool {
	return slices.ContainsFunc(current, func(s journey.Status) bool { return s.Set == set })
}

// stateText returns the state of a set in words.
func stateText(s snapset.SetInfo, current []journey.Status) string {
	switch {
	case s.State != snapset.SetIncomplete:
		return s.State
	case isAtWorkOn(current, s.Name):
		return "not complete yet"
	case s.Count == 0: // the tag with the number of members is set once all snapshots exist
		return "incomplete, it was never taken to the end"
	}
	text := fmt.Sprintf("incomplete, %d of its %d snapshots are left", len(s.Snapshots), s.Count)
	if len(s.Missing) > 0 {
		text += ", none of " + strings.Join(s.Missing, ", ")
	}
	return text
}

// printRun writes how far a run of any module is, and which unit it is.
func printRun(w io.Writer, s journey.Status) {
	fmt.Fprintf(w, "\nunder way since %s: %s", ansible.LocalTime(s.Begun), s.Title)
	if s.Label != "" {
		fmt.Fprintf(w, ": %s", s.Label)
	}
	if s.Percent != nil {
		fmt.Fprintf(w, ", %.0f %%", *s.Percent)
	}
	fmt.Fprintf(w, " (%s)\n", s.Unit)
}

// rollbackText says how far a rollback is. atWork: a run is working on it.
func rollbackText(l *rollback.Last, atWork bool) string {
	switch {
	case l.Outcome != "unfinished":
		return l.Outcome
	case l.Step == rollback.StepStarted:
		return "done; the volumes are in use while LVM merges"
	case l.Step == rollback.StepDeferred:
		return "waits for the volumes' next activation, at the latest the next boot"
	}
	if atWork {
		return "under way, at step " + l.Step
	}
	return "unfinished, at step " + l.Step + "; the same rollback again goes on with it"
}

func printPools(w io.Writer, list []snapset.PoolInfo) {
	for _, p := range list {
		fmt.Fprintf(w, "  thin pool %s: %s", p.Pool, ansible.Bytes(p.Size))
		if p.Data != nil && p.Metadata != nil { // LVM knows these numbers only of an active pool
			fmt.Fprintf(w, ", %.1f%% of its data and %.1f%% of its metadata used", *p.Data, *p.Metadata)
		}
		if p.Problem != "" {
			fmt.Fprintf(w, ": %s", p.Problem)
		}
		fmt.Fprintln(w)
	}
}

// printSnapshots lists snapshots. withAge is for snapshots of no set; those of a set all have the set's age.
func printSnapshots(w io.Writer, list []snapset.SnapshotInfo, withAge bool) {
	for _, s := range list {
		fmt.Fprintf(w, "  %-28s of %-20s %-9s", s.Snapshot, s.Volume, s.State)
		if withAge {
			fmt.Fprintf(w, " %8s old", ansible.Age(s.Age))
		}
		if s.UsedPercent != nil {
			fmt.Fprintf(w, "  %s of %s COW used (%.1f%%)", ansible.Bytes(s.Used), ansible.Bytes(s.COW), *s.UsedPercent)
		}
		if s.ToFull != nil {
			fmt.Fprintf(w, ", full in %s", ansible.Age(*s.ToFull))
		}
		if s.Merge != nil {
			fmt.Fprintf(w, "  merge %s", s.Merge.State)
			if !s.Thin && s.Merge.State != snapset.MergeFailed { // a thin merge copies nothing; of a failed one it is unknown
				fmt.Fprintf(w, ", %s left", ansible.Bytes(s.Merge.Left))
			}
			if s.Merge.Percent != nil {
				fmt.Fprintf(w, " (%.0f%% done)", *s.Merge.Percent)
			}
		}
		if len(s.Mountpoints) > 0 {
			fmt.Fprintf(w, "  on %s", strings.Join(s.Mountpoints, ", "))
		}
		if s.Problem != "" {
			fmt.Fprintf(w, "\n    %s", s.Problem)
		}
		fmt.Fprintln(w)
	}
}

func stackText(layers []snapset.Layer) string {
	var out []string
	for _, l := range layers {
		out = append(out, l.Kind+" "+l.Name)
	}
	return strings.Join(out, " > ")
}
