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

// Volume is what a result says of one member.
type Volume struct {
	Volume   string  `json:"volume"`
	Snapshot string  `json:"snapshot"`
	State    string  `json:"state"`   // merging, merged, deferred; waiting if the rollback did not get there; not_rolled_back if it never will
	Percent  float64 `json:"percent"` // of its merge
	// Bytes is what was written to the volume since the set, at most; nil for a thin volume, whose pool does not tell.
	Bytes *int64 `json:"discarded_bytes"`
}

// resultLimit bounds the look that a result takes at the merges.
const resultLimit = time.Minute

// result says what was done, from the journal's entry and a last look at the kernel.
func (w *walk) result(changed bool, e *journal.Entry) ansible.Result {
	ctx, cancel := context.WithTimeout(context.Background(), resultLimit)
	defer cancel()
	status, _ := w.lvm.Status(ctx) // without it the percentages are missing, no more
	state := merged
	var volumes []Volume
	for _, m := range w.state.Members {
		v := Volume{Volume: m.origin(), Snapshot: m.snapshot()}
		if !m.Thin {
			v.Bytes = &m.Used
		}
		v.State, v.Percent = now(status, m, e)
		if v.State != merged {
			state = v.State
		}
		volumes = append(volumes, v)
	}
	data := map[string]any{
		"name": w.state.Set, "id": w.state.ID, "state": state, "volumes": volumes,
		"discarded_since": w.state.Taken.UTC().Format(time.RFC3339), "services": w.state.Services.Active,
	}
	if w.state.Downtime > 0 {
		data["downtime_ms"] = w.state.Downtime.Milliseconds()
	}
	return ansible.Result{
		Changed: changed, Msg: w.message(changed, state, e.Begun), Data: data,
		Warnings: w.warnings, Commands: w.commands.Commands(),
	}
}

// now is the state of one member and the percentage of its merge.
func now(status map[string][]lvm.Target, m *Member, e *journal.Entry) (string, float64) {
	if m.Lost {
		return forsaken, 0
	}
	if e.Outcome == journal.Done {
		return merged, 100
	}
	for _, t := range status[m.DMName] {
		s, ok := t.Snapshot()
		if ok && s.Merging && s.Lost() && e.Step != StepDeferred {
			return forsaken, 0
		}
		if ok && s.Merging && m.Used > 0 && !s.Lost() {
			return merging, max(0, 100*float64(m.Used-s.UsedBytes())/float64(m.Used))
		}
	}
	switch {
	case wayOf(e.Step) == goesOn: // every merge had begun, and this one is not under way
		return merged, 100
	case e.Step == StepDeferred:
		return deferred, 0
	}
	return waiting, 0
}

func (w *walk) message(changed bool, state string, begun time.Time) string {
	before := " on " + begun.Local().Format(time.RFC3339)
	what := w.fromTo()
	switch {
	case state == forsaken:
		return "rolled back only a part of " + what
	case state == waiting:
		return "did not roll back " + what
	case state == deferred:
		return "will roll back " + what + " when the volumes are activated next, at the latest at the next boot"
	case len(w.revived) > 0 && w.Check:
		return "rolled back " + what + before + "; would start " + strings.Join(w.revived, " ")
	case len(w.revived) > 0:
		return "rolled back " + what + before + "; started now: " + strings.Join(w.revived, " ")
	case !changed && state == merged:
		return "rolled back " + what + before + "; there is no set of that name since, and nothing to do"
	case !changed:
		return "rolled back " + what + before + "; the merge goes on"
	case !w.state.Start:
		return "rolled back " + what + "; the services are left stopped: " + strings.Join(w.state.Services.Active, " ")
	}
	down := "services were down"
	if len(w.state.Services.Active) == 0 {
		down = "no service was stopped, and the volumes were away"
	}
	return fmt.Sprintf("rolled back %s; %s for %.1f s", what, down, w.state.Downtime.Seconds())
}

// fromTo is what is rolled back, and to what, in words.
func (w *walk) fromTo() string {
	return join(origins(w.state.Members)) + " to " + w.target()
}

// target is what is rolled back to: a set that was filled with a backup is what that backup was, however late the set
// was taken.
func (w *walk) target() string {
	taken := " of " + w.state.Taken.Local().Format(time.RFC3339)
	switch {
	case w.state.Restored != nil:
		return fmt.Sprintf("set %s, which holds %s", w.state.Set, w.state.Restored)
	case w.state.ID == "": // the snapshots themselves
		return w.state.Set + taken
	}
	return "set " + w.state.Set + taken
}

func size(bytes int64) string { return strconv.FormatInt(bytes, 10) + "b" }
