package rollback

import (
	"testing"

	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
)

// Every step is in the table, and the steps from which a rollback is undone come before those from which it is
// completed.
func TestStepsAreInOrder(t *testing.T) {
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
	for step, want := range map[string]direction{
		"": backward, stepUndoing: backward, StepDeferred: lvmDecides, stepMerging: lvmDecides, StepStarted: forward,
		"of a later version": forward,
	} {
		if got := directionOf(step); got != want {
			t.Errorf("%q: %d, want %d", step, got, want)
		}
	}
}

// Before its rollback begins, a restore has only its own entry, which is closed. That entry must not be taken for the
// entry of the rollback.
func TestRollbackThatHasNotBegunHasNoEntry(t *testing.T) {
	rb := newParts(&base{run: &journey.Run{}})
	rb.run.Resume(&journal.Entry{Kind: "restore", Step: "filled", Outcome: journal.Done})
	if e := rb.entry(); directionOf(e.Step) != backward || e.Outcome == journal.Done {
		t.Errorf("it is taken for one at step %q, %s", e.Step, e.Outcome)
	}
}
