package fault_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

// A run hands its fault to the caller as JSON. The caller shows each problem on a line of its own.
func TestProblemsOutliveJSON(t *testing.T) {
	joined := fault.All(fault.New(fault.NotFound, "no a"), fault.New(fault.Busy, "b is busy"))
	text, err := json.Marshal(joined)
	if err != nil {
		t.Fatal(err)
	}
	var decoded fault.Error
	if err := json.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	want := []fault.Problem{{Code: fault.NotFound, Msg: "no a"}, {Code: fault.Busy, Msg: "b is busy"}}
	if diff := cmp.Diff(want, decoded.Problems()); diff != "" {
		t.Error(diff)
	}
	// What wraps a joined fault says more than its parts.
	wrapped := fault.New(fault.NotFound, "extended, but not mounted: %w", joined)
	want = []fault.Problem{{Code: fault.NotFound, Msg: "extended, but not mounted: no a; b is busy"}}
	if diff := cmp.Diff(want, wrapped.Problems()); diff != "" {
		t.Error(diff)
	}
	again := fault.Of(fault.All(wrapped, fault.New(fault.Timeout, "late")))
	if got := again.Problems(); len(got) != 2 || got[0] != want[0] {
		t.Errorf("joined again: %+v", got)
	}
}
