package journey

import (
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/journal"
)

// The unit of a run is active for some seconds after the run's work is done. A run that goes on after its answer is
// under way, and so is one that answered and has left something to be settled.
func TestRunIsUnderWayUntilItsWorkIsDone(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	id := journal.NewID()
	run := Handlers{}.RunIn(j, dir, id)
	run.dir = filepath.Join(dir, id)
	writeFile(t, filepath.Join(run.dir, "request"), "{}")
	check := func(when string, want bool) {
		t.Helper()
		entries, err := journal.Read(filepath.Join(dir, "journal"))
		if got := isDone(run.dir, entries); got != want || err != nil {
			t.Errorf("%s: done %v, %v", when, got, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("at the beginning", false)
	must(run.Begin("snapshot", "s", nil, "filling", nil))
	must(run.Finish("filled", journal.Done, nil))
	check("between two entries", false)
	must(run.Begin("rollback", "s", nil, "started", nil))
	must(run.Answer(ansible.Result{}, nil))
	check("after an early answer", false)
	must(run.Finish("merged", journal.Done, nil))
	check("at the end", true)
	_, err = j.Begin(journal.NewID(), "snapshot", "other", nil, "taking", nil)
	must(err)
	check("while another run is under way", true)
	if entries, err := journal.Read(filepath.Join(dir, "none")); len(entries) > 0 || err != nil {
		t.Error(entries, err)
	}
}
