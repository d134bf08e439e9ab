package rollback

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
)

// answers makes the results of a rollback.
type answers struct {
	*base
	unitsStartedNow []string // units that an earlier run of this rollback could not start, and this run did
}

// Volume is the part of a result that describes one member.
type Volume struct {
	Volume   string `json:"volume"`
	Snapshot string `json:"snapshot"`
	// State is merging, merged, deferred, waiting (its merge has not begun) or not_rolled_back (it will never be merged).
	State   string  `json:"state"`
	Percent float64 `json:"percent"` // how much of its merge is done, 0 to 100
	// Bytes is how much was written to the volume since the set was taken, at most. It is nil for a thin volume, because
	// the pool does not know it.
	Bytes *int64 `json:"discarded_bytes"`
}

// Result is what came of a rollback, or with Check would come of it.
type Result struct {
	Changed  bool
	Msg      string // says what was done, or with Check would be
	Set      string // its name, or the names of the snapshots
	ID       string // of the set; empty for snapshots that were made by hand
	State    string // of a member that is not merged, or merged
	Volumes  []Volume
	Since    time.Time     // what was written since then is discarded; zero: it is not known
	Services []string      // the units that were active, in the order in which they start
	Downtime time.Duration // from the stop of the first service until all were started; 0: it is not known
	Preview  *Preview      // nil without Check
	Warnings []string
	Commands []command.Record // all that ran
}

// Preview is what only the result of a call with Check has.
type Preview struct {
	Stop      []string                      // the units that would be stopped
	Holders   []filesystem.Holder           // what keeps the volumes open, so that their merges would be deferred
	End       []filesystem.Holder           // the processes that would be ended
	Discarded map[string]filesystem.Changes // by mount point; nil without Diff
	Diff      *ansible.Diff                 // the same as text; nil without Diff
}

// ForAnsible returns the result as Ansible gets it.
func (r Result) ForAnsible() ansible.Result {
	if r.State == "" { // the rollback was refused before it was planned
		return ansible.Result{Warnings: r.Warnings, Commands: r.Commands}
	}
	data := map[string]any{
		"name": r.Set, "id": r.ID, "state": r.State, "volumes": r.Volumes, "services": r.Services,
		"discarded_since": r.Since.UTC().Format(time.RFC3339),
	}
	if r.Downtime > 0 {
		data["downtime_ms"] = r.Downtime.Milliseconds()
	}
	out := ansible.Result{Changed: r.Changed, Msg: r.Msg, Data: data, Warnings: r.Warnings, Commands: r.Commands}
	if r.Preview == nil {
		return out
	}
	data["stop"], out.Diff = r.Preview.Stop, r.Preview.Diff
	if len(r.Preview.Holders) > 0 {
		data["holders"] = r.Preview.Holders
	}
	if len(r.Preview.End) > 0 {
		data["end"] = r.Preview.End
	}
	if r.Preview.Discarded != nil {
		data["discarded"] = r.Preview.Discarded
	}
	return out
}

// resultLimit bounds the questions about the state of the merges that a result asks.
const resultLimit = time.Minute

// result describes what was done, from the journal entry and the current state of the kernel.
func (a *answers) result(changed bool, e *journal.Entry) Result {
	ctx, cancel := context.WithTimeout(context.Background(), resultLimit)
	defer cancel()
	status, _ := a.lvm.Status(ctx) // without it only the percentages are missing
	r := Result{
		Changed: changed, Set: a.state.Set, ID: a.state.ID, State: stateMerged, Since: a.state.Taken,
		Services: a.state.Services.Active, Downtime: a.state.Downtime,
		Warnings: a.warnings, Commands: a.commands.Commands(),
	}
	for _, m := range a.state.Members {
		v := Volume{Volume: m.origin(), Snapshot: m.snapshot()}
		if !m.Thin {
			v.Bytes = &m.Used
		}
		v.State, v.Percent = memberProgress(status, m, e)
		if v.State != stateMerged {
			r.State = v.State
		}
		r.Volumes = append(r.Volumes, v)
	}
	r.Msg = a.message(changed, r.State, e.Begun)
	return r
}

// memberProgress returns the state of one member, and the percentage of its merge that is done, 0 to 100.
func memberProgress(status map[string][]lvm.Target, m *Member, e *journal.Entry) (string, float64) {
	if m.Lost {
		return stateNotRolledBack, 0
	}
	if e.Outcome == journal.Done {
		return stateMerged, 100
	}
	for _, t := range status[m.DMName] {
		s, ok := t.Snapshot()
		if ok && s.Merging && s.Lost() && e.Step != StepDeferred {
			return stateNotRolledBack, 0
		}
		if ok && s.Merging && m.Used > 0 && !s.Lost() {
			return stateMerging, max(0, 100*float64(m.Used-s.UsedBytes())/float64(m.Used))
		}
	}
	switch {
	case directionOf(e.Step) == forward: // every merge had begun, and this one is not under way
		return stateMerged, 100
	case e.Step == StepDeferred:
		return stateDeferred, 0
	}
	return stateWaiting, 0
}

// message returns the message of the result. state is that of a member that is not merged, or stateMerged.
func (a *answers) message(changed bool, state string, begun time.Time) string {
	when := " on " + begun.Local().Format(time.RFC3339)
	described := a.state.describe()
	switch {
	case state == stateNotRolledBack:
		return "rolled back only a part of " + described
	case state == stateWaiting:
		return "did not roll back " + described
	case state == stateDeferred:
		return "will roll back " + described + " when the volumes are activated next, at the latest at the next boot"
	case len(a.unitsStartedNow) > 0 && a.Check:
		return "rolled back " + described + when + "; would start " + strings.Join(a.unitsStartedNow, " ")
	case len(a.unitsStartedNow) > 0:
		return "rolled back " + described + when + "; started now: " + strings.Join(a.unitsStartedNow, " ")
	case !changed && state == stateMerged:
		return "rolled back " + described + when + "; there is no set of that name since, and nothing to do"
	case !changed:
		return "rolled back " + described + when + "; the merge goes on"
	case !a.state.Start:
		return "rolled back " + described + "; the services are left stopped: " + strings.Join(a.state.Services.Active, " ")
	}
	prefix := "services were down"
	if !usesVolumes(a.state.Services.Active) {
		prefix = "no service was stopped, and the volumes were unmounted"
	}
	return fmt.Sprintf("rolled back %s; %s for %.1f s", described, prefix, a.state.Downtime.Seconds())
}

// sizeInBytes returns a size in the form that snapset.Volume takes.
func sizeInBytes(bytes int64) string { return strconv.FormatInt(bytes, 10) + "b" }
