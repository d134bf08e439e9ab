package snapset

import (
	"fmt"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/lvm"
)

// Result is what came of a request for a set, or with Check would come of it.
type Result struct {
	Changed   bool
	Msg       string // says what was done, or with Check would be
	Label            // of the set; if there is no such set, it has only the name
	Snapshots []Taken
	Took      bool          // the request took the set
	Pause     time.Duration // how long writes to any volume waited at most, in whole milliseconds; 0 unless Took
	Unmounted []string      // where a set that was removed had been mounted
	Diff      *Diff         // nil: no snapshot was made, extended or removed
	Warnings  []string
	Commands  []command.Record // all that ran
}

// Diff has the snapshots of a set before and after a change.
type Diff struct{ Before, After []Taken }

// ForAnsible returns the result as Ansible gets it.
func (r Result) ForAnsible() ansible.Result {
	data := map[string]any{}
	if r.Set != "" {
		data["name"] = r.Set
	}
	if r.ID != "" {
		data["id"], data["time"] = r.ID, r.Time.UTC().Format(time.RFC3339)
		data["consistency"], data["snapshots"] = r.Consistency(), r.Snapshots
	}
	if r.Took {
		data["pause_ms"] = r.Pause.Milliseconds()
	}
	if len(r.Unmounted) > 0 {
		data["unmounted"] = r.Unmounted
	}
	out := ansible.Result{Changed: r.Changed, Msg: r.Msg, Data: data, Warnings: r.Warnings, Commands: r.Commands}
	if r.Diff != nil {
		header := "set " + r.Set
		out.Diff = &ansible.Diff{
			Before: diffText(r.Diff.Before), After: diffText(r.Diff.After), BeforeHeader: header, AfterHeader: header,
		}
	}
	return out
}

// diffText returns one line for each snapshot.
func diffText(list []Taken) string {
	var b strings.Builder
	for _, t := range list {
		fmt.Fprintf(&b, "%s of %s", t.Snapshot, t.Volume)
		if t.Size > 0 {
			fmt.Fprintf(&b, ", %s", ansible.Bytes(t.Size))
		}
		if t.Mountpoint != "" {
			fmt.Fprintf(&b, ", mounted on %s", t.Mountpoint)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Taken is what a result says of one snapshot. Its form in JSON is that in which Ansible gets it.
type Taken struct {
	Volume     string   `json:"volume"`                   // the origin, vg/lv
	Snapshot   string   `json:"snapshot"`                 // vg/lv
	Size       int64    `json:"cow_bytes,omitempty"`      // of its COW space
	Used       int64    `json:"cow_used_bytes,omitempty"` // of it
	Thin       bool     `json:"thin,omitempty"`
	State      string   `json:"state,omitempty"`    // as lvm.State names it, of an existing snapshot
	Method     Method   `json:"method,omitempty"`   // of a snapshot that was, or would be, taken
	Pause      *float64 `json:"pause_ms,omitempty"` // how long writes to the origin waited, in milliseconds
	Mountpoint string   `json:"mountpoint,omitempty"`
}

// newSetResult returns the result for a set that was taken, or with Check would be: verb says which. pause is nil with
// Check.
func newSetResult(p *Plan, pause Pause, verb string) Result {
	var list []Taken
	var longest time.Duration
	var origins []string
	for _, m := range p.Members {
		t := Taken{Volume: m.origin(), Snapshot: m.snapshot(), Size: m.COW, Thin: m.Thin, Method: m.Method}
		if d, ok := pause[m.origin()]; ok {
			ms := float64(d.Microseconds()) / 1000
			t.Pause = &ms
			longest = max(longest, d)
		}
		list, origins = append(list, t), append(origins, m.origin())
	}
	r := Result{Changed: true, Label: p.label(), Snapshots: list, Took: pause != nil, Diff: &Diff{After: list}}
	r.Msg = fmt.Sprintf("%s set %s of %s", verb, p.Set, strings.Join(origins, ", "))
	if r.Took {
		r.Pause = longest.Round(time.Millisecond)
		r.Msg += fmt.Sprintf("; writes waited %d ms at most", r.Pause.Milliseconds())
	}
	return r
}

// takenResult returns the result for a set that was taken. It warns if LVM's own suspend, which cannot be cut short,
// took longer than the limit.
func takenResult(p *Plan, pause Pause, limit time.Duration) Result {
	result := newSetResult(p, pause, "took")
	for _, m := range p.Members {
		if waited := pause[m.origin()]; waited > limit {
			result.Warnings = append(result.Warnings, fmt.Sprintf(
				"writes to %s waited %s, longer than freeze_timeout (%s): LVM itself held them while it made the snapshot, "+
					"and that cannot be cut short",
				m.origin(), waited.Round(time.Millisecond), limit))
		}
	}
	return result
}

// existingSetResult returns the result for a set that exists.
func existingSetResult(s *Set, changed bool, msg string) Result {
	return Result{Changed: changed, Msg: msg, Label: s.Label, Snapshots: listSnapshots(s)}
}

// listSnapshots describes the snapshots of a set that exists.
func listSnapshots(s *Set) []Taken {
	var out []Taken
	for _, v := range s.Snapshots {
		out = append(out, Taken{
			Volume: v.VG + "/" + v.Origin, Snapshot: v.FullName(), Size: v.COWSize, Used: v.COWUsed,
			Thin: v.Kind == lvm.Thin, State: string(v.State),
		})
	}
	return out
}
