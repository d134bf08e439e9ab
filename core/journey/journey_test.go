package journey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
)

// trips makes trips over one journal and one directory of locks.
func trips(t *testing.T, h Handlers) func() *Trip {
	t.Helper()
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	another := lockDir(t, time.Minute)
	return func() *Trip {
		return &Trip{Journal: j, handlers: h, id: journal.NewID(), dir: t.TempDir(), locks: another()}
	}
}

// settled is a kind that writes down which of its entries were settled.
func settled(list *[]string, err error) Handler {
	return Handler{Settle: func(_ context.Context, t *Trip, e *journal.Entry) error {
		*list = append(*list, e.Set)
		if err != nil {
			return err
		}
		return t.Finish("undone", journal.Undone, nil)
	}}
}

func begin(t *testing.T, trip *Trip, kind, set string, groups ...string) {
	t.Helper()
	if err := trip.Begin(kind, set, groups, "half", nil); err != nil {
		t.Fatal(err)
	}
}

func TestLockSettlesWhatWasLeftInItsGroups(t *testing.T) {
	var list []string
	trip := trips(t, Handlers{"merge": settled(&list, nil)})
	begin(t, trip(), "merge", "here", "vg00", "vg01")
	begin(t, trip(), "merge", "there", "vg02")
	last := trip()
	stale, err := last.Lock(t.Context(), []string{"vg01"}, "x", time.Now())
	if err != nil || !stale {
		t.Fatal(stale, err)
	}
	if diff := cmp.Diff([]string{"here"}, list); diff != "" {
		t.Error(diff)
	}
	if last.locks.held["vg00"] == nil {
		t.Error("settled without the lock of its other group")
	}
	if last.Entry() != nil {
		t.Error("the settled entry is taken for its own")
	}
	last.Unlock()
	if stale, err = trip().Lock(t.Context(), []string{"vg03"}, "x", time.Now()); stale || err != nil {
		t.Errorf("nothing to settle: %v %v", stale, err)
	}
}

func TestWhatCannotBeSettledStopsTheJourney(t *testing.T) {
	var list []string
	trip := trips(t, Handlers{"merge": settled(&list, fault.New(fault.Busy, "somebody is in /dat"))})
	begin(t, trip(), "merge", "snap", "vg00")
	_, err := trip().Lock(t.Context(), []string{"vg00"}, "x", time.Now())
	if fault.Of(err).Code != fault.Busy || !strings.Contains(err.Error(), `earlier merge of set "snap", interrupted at "half"`) {
		t.Error(err)
	}
	trip = trips(t, nil)
	begin(t, trip(), "new-kind", "snap", "vg00")
	if _, err = trip().Lock(t.Context(), []string{"vg00"}, "x", time.Now()); !errors.Is(err, fault.Interrupted) {
		t.Error(err)
	}
}

func TestTheJourneysOwnEntryIsNotSettled(t *testing.T) {
	var list []string
	trip := trips(t, Handlers{"merge": settled(&list, nil)})()
	begin(t, trip, "merge", "snap", "vg00")
	if _, err := trip.Lock(t.Context(), []string{"vg00"}, "x", time.Now()); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

func TestEachEntryOfAJourneyHasItsOwnID(t *testing.T) {
	trip := trips(t, nil)()
	begin(t, trip, "merge", "snap", "vg00")
	first := trip.Entry()
	begin(t, trip, "snapshot", "snap", "vg00")
	if first.ID != trip.id || trip.Entry().ID == first.ID {
		t.Errorf("%s and %s", first.ID, trip.Entry().ID)
	}
}

// The answer goes through a file: what the user is told must be what the journey said.
func TestAnswer(t *testing.T) {
	trip := trips(t, nil)()
	result := ansible.Result{Changed: true, Msg: "rolled back", Data: map[string]any{"downtime_ms": 1 << 60, "state": "merged"},
		Warnings: []string{"careful"}, Commands: []command.Record{{Argv: []string{"lvm", "lvs"}, MS: 7}}}
	no := fault.New(fault.Busy, "held open by %s", "bash").WithHint("end it").With("holders", []map[string]any{{"pid": 812}})
	if err := trip.Answer(result, no); err != nil {
		t.Fatal(err)
	}
	got, err := resultOf(trip)
	if f := fault.Of(err); f.Code != fault.Busy || f.Msg != "held open by bash" || f.Hint != "end it" || f.Facts["holders"] == nil {
		t.Errorf("%+v", f)
	}
	if !got.Changed || got.Msg != "rolled back" || got.Data["downtime_ms"] != json.Number("1152921504606846976") || len(got.Commands) != 1 || got.Warnings[0] != "careful" {
		t.Errorf("%+v", got)
	}
	if err := trip.Answer(result, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := resultOf(trip); err != nil {
		t.Errorf("no failure became %v", err)
	}
}

func resultOf(trip *Trip) (ansible.Result, error) { return result(trip.dir, trip.id) }

func TestProgress(t *testing.T) {
	trip := trips(t, nil)()
	trip.Progress("merging", 42)
	var got Progress
	notice(trip.dir, func(p Progress) { got = p })
	if got != (Progress{Label: "merging", Percent: 42}) {
		t.Errorf("%+v", got)
	}
	notice(t.TempDir(), func(p Progress) { t.Errorf("without a file: %+v", p) })
	(&Trip{}).Progress("at boot nobody waits", 1) // must not fail
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	if s, ok := status(dir); ok {
		t.Errorf("of a journey that is gone: %+v", s)
	}
	if err := replace(filepath.Join(dir, "request"), []byte(`{"kind":"backup","title":"back up with restic","request":{"volumes":["/dat"]}}`)); err != nil {
		t.Fatal(err)
	}
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, "request"), begun, begun); err != nil {
		t.Fatal(err)
	}
	trip, half := &Trip{dir: dir}, 50.0
	for _, c := range []struct {
		told Progress
		want Status
	}{
		{Progress{}, Status{}},
		{Progress{Label: "waiting for vg00", Percent: -1}, Status{Label: "waiting for vg00"}},
		{Progress{Label: "storing", Percent: 50, Bytes: 7}, Status{Label: "storing", Percent: &half, Bytes: 7}},
	} {
		if c.told != (Progress{}) {
			trip.Tell(c.told)
		}
		c.want.ID, c.want.Unit = filepath.Base(dir), "rewind-"+filepath.Base(dir)+".service"
		c.want.Kind, c.want.Title, c.want.Begun = "backup", "back up with restic", "2026-01-02T03:04:05Z"
		got, ok := status(dir)
		if diff := cmp.Diff(c.want, got); !ok || diff != "" {
			t.Errorf("%+v:\n%s", c.told, diff)
		}
	}
}

func TestAppears(t *testing.T) {
	for name, before := range map[string]bool{"there before": true, "comes later": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "result")
			write := func() {
				if err := replace(path, []byte("x")); err != nil {
					t.Error(err)
				}
			}
			if before {
				write()
			}
			there, others, stop, err := appears(path)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if !before {
				<-others // there may be one already
				if err := replace(path+".other", nil); err != nil {
					t.Fatal(err)
				}
				<-others
				write()
			}
			select {
			case <-there:
			case <-time.After(10 * time.Second):
				t.Error("not seen")
			}
		})
	}
}

func TestExtendTellsMicroseconds(t *testing.T) {
	var said string
	trip := &Trip{notify: func(s string) { said = s }}
	trip.Extend(90 * time.Second)
	if said != "EXTEND_TIMEOUT_USEC=90000000" {
		t.Error(said)
	}
}

func TestSecretIsReadOnceAndRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := leaveSecret(dir, map[string]string{"PASSWORD": "swordfish"}); err != nil {
		t.Fatal(err)
	}
	trip := &Trip{dir: dir}
	if err := trip.takeSecret(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, secretFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the secret's file is still there: %v", err)
	}
	var got map[string]string
	if err := trip.Secret(&got); err != nil || got["PASSWORD"] != "swordfish" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := (&Trip{dir: dir}).takeSecret(); err != nil {
		t.Errorf("without a secret: %v", err)
	}
}
