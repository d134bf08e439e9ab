package rollback

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
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

// resultLimit bounds the questions about the state of the merges that a result asks.
const resultLimit = time.Minute

// result describes what was done, from the journal entry and the current state of the kernel.
func (a *answers) result(changed bool, e *journal.Entry) ansible.Result {
	ctx, cancel := context.WithTimeout(context.Background(), resultLimit)
	defer cancel()
	status, _ := a.lvm.Status(ctx) // without it only the percentages are missing
	state := stateMerged
	var volumes []Volume
	for _, m := range a.state.Members {
		v := Volume{Volume: m.origin(), Snapshot: m.snapshot()}
		if !m.Thin {
			v.Bytes = &m.Used
		}
		v.State, v.Percent = memberProgress(status, m, e)
		if v.State != stateMerged {
			state = v.State
		}
		volumes = append(volumes, v)
	}
	data := map[string]any{
		"name": a.state.Set, "id": a.state.ID, "state": state, "volumes": volumes,
		"discarded_since": a.state.Taken.UTC().Format(time.RFC3339), "services": a.state.Services.Active,
	}
	if a.state.Downtime > 0 {
		data["downtime_ms"] = a.state.Downtime.Milliseconds()
	}
	return ansible.Result{
		Changed: changed, Msg: a.message(changed, state, e.Begun), Data: data,
		Warnings: a.warnings, Commands: a.commands.Commands(),
	}
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
