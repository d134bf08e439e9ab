package rollback

import "testing"

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
