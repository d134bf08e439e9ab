package rollback

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// What was last done to a set decides whether it was rolled back. The entries begin with the newest.
func TestNewestOf(t *testing.T) {
	rolledBack := &journal.Entry{ID: "r", Kind: Kind, Set: "snap", Outcome: journal.Done, Step: stepMerged}
	underWay := &journal.Entry{ID: "u", Kind: Kind, Set: "snap", Step: StepStarted}
	undone := &journal.Entry{ID: "x", Kind: Kind, Set: "snap", Outcome: journal.Undone}
	taken := &journal.Entry{ID: "t", Kind: snapset.Kind, Set: "snap", Outcome: journal.Done, Step: "taken"}
	removed := &journal.Entry{ID: "d", Kind: snapset.Kind, Set: "snap", Outcome: journal.Done, Step: "removed"}
	mounted := &journal.Entry{ID: "m", Kind: snapset.Kind, Set: "snap", Outcome: journal.Done, Step: snapset.StepMounted}
	failed := &journal.Entry{ID: "f", Kind: snapset.Kind, Set: "snap", Outcome: journal.Undone, Step: "undone"}
	reverted := &journal.Entry{ID: "c", Kind: snapset.Kind, Set: "snap", Outcome: journal.Done}
	reverted.Step = snapset.StepRolledBack
	other := &journal.Entry{ID: "o", Kind: Kind, Set: "other", Outcome: journal.Done}
	for name, c := range map[string]struct {
		entries []*journal.Entry
		want    *journal.Entry
	}{
		"nothing":                             {nil, nil},
		"of another set only":                 {[]*journal.Entry{other}, nil},
		"rolled back":                         {[]*journal.Entry{other, rolledBack, taken}, rolledBack},
		"under way":                           {[]*journal.Entry{underWay, taken}, underWay},
		"with its own entry":                  {[]*journal.Entry{reverted, taken}, reverted},
		"with its own entry, and taken since": {[]*journal.Entry{taken, reverted}, nil},
		"taken since":                         {[]*journal.Entry{taken, rolledBack}, nil},
		"removed since":                       {[]*journal.Entry{removed, rolledBack}, nil},
		"only mounted since":                  {[]*journal.Entry{mounted, rolledBack}, rolledBack},
		"could not be taken since":            {[]*journal.Entry{failed, rolledBack}, rolledBack},
		"the last one was undone":             {[]*journal.Entry{undone, rolledBack}, rolledBack},
		"only one, and undone":                {[]*journal.Entry{undone, taken}, nil},
		"taken, removed, and again":           {[]*journal.Entry{rolledBack, taken, removed, undone}, rolledBack},
	} {
		if got := newestOf(c.entries, "snap"); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// If no snapshot is left, the journal says which volume groups may have something to settle.
func TestRecordedGroups(t *testing.T) {
	rolledBack := &journal.Entry{Kind: Kind, Set: "snap", Outcome: journal.Done, Groups: []string{"vg0"}}
	taking := &journal.Entry{Kind: snapset.Kind, Set: "snap", Groups: []string{"vg1"}}
	taken := &journal.Entry{Kind: snapset.Kind, Set: "snap", Outcome: journal.Done, Step: "taken", Groups: []string{"vg2"}}
	other := &journal.Entry{Kind: snapset.Kind, Set: "other", Groups: []string{"vg3"}}
	for name, c := range map[string]struct {
		entries []*journal.Entry
		want    string
	}{
		"nothing":            {nil, ""},
		"of another set":     {[]*journal.Entry{other, taken}, ""},
		"rolled back":        {[]*journal.Entry{rolledBack, taken}, "vg0"},
		"not settled":        {[]*journal.Entry{other, taking, taken}, "vg1"},
		"and an earlier one": {[]*journal.Entry{taking, rolledBack}, "vg1"},
	} {
		if got := strings.Join(recordedGroups(c.entries, "snap"), " "); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestSameRollback(t *testing.T) {
	entry := func(o journal.Outcome, uuids ...string) *journal.Entry {
		st := State{}
		for _, uuid := range uuids {
			st.Members = append(st.Members, &Member{SnapshotID: uuid})
		}
		data, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		return &journal.Entry{Outcome: o, State: data}
	}
	volumes := func(uuids ...string) (list []*lvm.Volume) {
		for _, uuid := range uuids {
			list = append(list, &lvm.Volume{UUID: uuid})
		}
		return list
	}
	for name, c := range map[string]struct {
		entry     *journal.Entry
		snapshots []*lvm.Volume
		same      bool
	}{
		"none":                                    {nil, volumes("1"), false},
		"done, and no snapshot is left":           {entry(journal.Done, "1", "2"), nil, true},
		"under way, one still merging":            {entry(journal.Unfinished, "1", "2"), volumes("2"), true},
		"under way, but this is another snapshot": {entry(journal.Unfinished, "1", "2"), volumes("2", "3"), false},
		"done, and yet there":                     {entry(journal.Done, "1"), volumes("1"), false},
	} {
		got, err := sameRollback(c.entry, c.snapshots)
		if (got != nil) != c.same || err != nil {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	damaged := &journal.Entry{ID: "1", State: []byte("{")}
	if _, err := sameRollback(damaged, volumes("1")); !errors.Is(err, fault.JournalDamaged) {
		t.Error(err)
	}
}

// A set's entry that was rolled back with its volume knows only that the set was being taken. LVM knows which of its
// members still merge.
func TestAnswerAfterJournalWasRolledBack(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "root", Open: 1}, {Name: "root_s", Origin: "root"}, {Name: "dat"},
	}})
	rb := newParts(&base{Request: Request{Set: "s", Check: true}, commands: command.NewRecorder(f), lvm: f.LVM()})
	writeProtection{}.install(rb)
	if err := rb.lvm.Merge(t.Context(), "vg00/root_s"); err != nil {
		t.Fatal(err)
	}
	report, err := rb.lvm.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := snapset.Plan{Set: "s", ID: "1", Members: []*snapset.Member{
		{VG: "vg00", LV: "root", Snapshot: "root_s", DMName: "vg00-root"},
		{VG: "vg00", LV: "dat", Snapshot: "dat_s", DMName: "vg00-dat"},
	}}
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	e := &journal.Entry{Kind: snapset.Kind, Set: "s", Outcome: journal.Done, Step: snapset.StepRolledBack, State: data}
	merging, _ := report.Volume("vg00", "root_s")
	if same, err := sameRollback(e, []*lvm.Volume{merging}); same != e || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	if same, err := sameRollback(e, []*lvm.Volume{{Name: "root_s"}}); same != nil || err != nil {
		t.Errorf("a set of that name was taken since: %v, %v", same, err)
	}
	r, err := rb.answerRevertedJournal(t.Context(), &selection{view: &snapset.View{Report: report}}, e)
	if err != nil || r.Changed || !strings.Contains(r.Msg, "rolled back vg00/dat,vg00/root to set s") {
		t.Errorf("%+v, %v", r, err)
	}
	if rb.state.Members[0].SnapshotID != merging.UUID || rb.state.Members[1].SnapshotID != "" {
		t.Errorf("members %+v, %+v", rb.state.Members[0], rb.state.Members[1])
	}
	f.Fill("vg00/root_s", 100)
	f.PowerCut()
	rb.state = nil
	r, err = rb.answerRevertedJournal(t.Context(), &selection{view: &snapset.View{Report: report}}, e)
	if !errors.Is(err, fault.SnapshotInvalid) || r.State != stateNotRolledBack {
		t.Errorf("a member that was lost while it waited for the boot: %+v, %v", r, err)
	}
	e.State = []byte("{")
	if _, err := rb.answerRevertedJournal(t.Context(), nil, e); !errors.Is(err, fault.JournalDamaged) {
		t.Error(err)
	}
}

func TestNewestReadsJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if last, err := Newest(dir, ""); last != nil || err != nil {
		t.Error(last, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("reading has created a journal")
	}
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	st := State{Downtime: 1500 * time.Millisecond, Members: []*Member{{VG: "vg00", LV: "dat", SnapshotID: "u", Used: 7}}}
	first, err := j.Begin("a1", Kind, "snap", []string{"vg00"}, stepChecked, st)
	if err == nil {
		_, err = j.Begin("a2", snapset.Kind, "snap", []string{"vg00"}, "taking", nil)
	}
	if err == nil {
		_, err = j.Begin("a3", Kind, "other", []string{"vg00"}, StepStarted, st)
	}
	if err == nil {
		err = j.Finish(first, stepMerged, journal.Done, st)
	}
	if err != nil {
		t.Fatal(err)
	}
	last, err := Newest(dir, "")
	if err != nil || last.Set != "other" || last.Outcome != "unfinished" || last.Merging["u"] != 7 ||
		last.Downtime != 1500 {
		t.Errorf("%+v %v", last, err)
	}
	last, err = Newest(dir, "snap")
	if err != nil || last.Step != stepMerged || last.Outcome != "done" || len(last.Merging) > 0 ||
		last.Volumes[0] != "vg00/dat" {
		t.Errorf("%+v %v", last, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a4.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if last, err = Newest(dir, "snap"); last == nil || !errors.Is(err, fault.JournalDamaged) {
		t.Errorf("beside a damaged entry: %+v %v", last, err)
	}
}

// After a power cut the state in the journal is all that the rollback is continued from.
func TestStateSurvivesTheJournal(t *testing.T) {
	stopped := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	st := State{
		Set: "snap", ID: "1", Taken: stopped, Start: true, Resnapshot: true, Stopped: stopped, Downtime: time.Second,
		Members: []*Member{{
			VG: "vg00", LV: "dat", Snapshot: "dat_snap", DMName: "vg00-dat", SnapshotID: "u", COWSize: 1 << 40, Crypt: "c",
		}},
		Services: service.Plan{
			Named: []string{"a.service"}, Stop: []string{"b.service", "a.service"}, Active: []string{"a.service"},
		},
		Mounts: []filesystem.MountSpec{{
			Source: "/dev/vg00/dat", Point: "/dat", Type: "xfs", Options: []string{"rw", "noatime"},
		}},
		Failures: []service.Failure{{Unit: "a.service", Result: "exit-code"}},
		Trouble:  []*fault.Error{{Code: fault.NoSpace, Msg: "set snap was not taken again", Hint: "make room"}},
	}
	data, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var again State
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(st, again); diff != "" {
		t.Error(diff)
	}
}

// newEnded returns a rollback, and the journal entry of an earlier rollback of the same set that ended without taking
// the set again.
func newEnded(t *testing.T) (*rollback, *journal.Entry) {
	t.Helper()
	rb := newAtMerge(t, server(), "vg00/dat_s")
	rb.systemd, rb.commands = &service.Systemd{}, command.NewRecorder(command.Local{})
	rb.state.Trouble = []*fault.Error{fault.New(fault.NoSpace, "set s was not taken again").WithHint("make room")}
	data, err := json.Marshal(rb.state)
	if err != nil {
		t.Fatal(err)
	}
	return rb, &journal.Entry{ID: "1", Kind: Kind, Set: "s", Step: stepMerged, Outcome: journal.Done, State: data}
}

// The call that made a rollback may never have been answered, as after a power cut, so the next call repeats what went
// wrong.
func TestAnswerEarlierRepeatsFailure(t *testing.T) {
	rb, e := newEnded(t)
	result, err := rb.answerEarlier(t.Context(), e)
	if !errors.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), "rolled back, but set s was not taken again") ||
		fault.Of(err).Hint != "make room" || result.Changed {
		t.Errorf("%v, %+v", err, result)
	}
	rb, e = newEnded(t)
	rb.Check, e.Outcome, e.Step = true, journal.Unfinished, StepStarted
	if _, err := rb.answerEarlier(t.Context(), e); !errors.Is(err, fault.NoSpace) {
		t.Errorf("with --check: %v", err)
	}
	rb, e = newEnded(t)
	e.State = []byte("{}")
	if _, err := rb.answerEarlier(t.Context(), e); err != nil {
		t.Errorf("nothing failed: %v", err)
	}
}
