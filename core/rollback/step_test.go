package rollback

import (
	"testing"

	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
)

// Every step of the journal is in the one table, and none before the merge comes after one behind it.
func TestTheStepsAreInTheirOrder(t *testing.T) {
	known := map[string]bool{}
	for i, s := range steps {
		known[s.name] = true
		if i > 0 && s.way < steps[i-1].way {
			t.Errorf("%s comes after %s", s.name, steps[i-1].name)
		}
	}
	for _, step := range []string{stepChecked, stepStopping, stepUnmounting, stepUndoing, stepUndone, StepDeferred,
		stepMerging, stepMounting, stepStarting, StepStarted, stepMerged} {
		if !known[step] {
			t.Errorf("%s is not in the table", step)
		}
	}
	for step, want := range map[string]way{
		"": turnsBack, stepUndoing: turnsBack, StepDeferred: lvmDecides, stepMerging: lvmDecides, StepStarted: goesOn,
		"of a later version": goesOn,
	} {
		if got := wayOf(step); got != want {
			t.Errorf("%q: %d, want %d", step, got, want)
		}
	}
}

// A restore is at work on an entry of its own, which is closed, when its rollback has not begun yet.
func TestARollbackThatHasNotBegunHasNoEntry(t *testing.T) {
	w := &walk{trip: &journey.Trip{}}
	w.trip.Resume(&journal.Entry{Kind: "restore", Step: "filled", Outcome: journal.Done})
	if e := w.entry(); wayOf(e.Step) != turnsBack || e.Outcome == journal.Done {
		t.Errorf("it is taken for one at step %q, %s", e.Step, e.Outcome)
	}
}
