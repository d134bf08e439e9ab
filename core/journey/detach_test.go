package journey

import (
	"strings"
	"testing"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
)

func TestWaitingValidate(t *testing.T) {
	const id = "20260131t235959-123456-0a1b2c"
	for _, c := range []struct {
		w    Waiting
		want string // in the error; empty: there is none
	}{
		{Waiting{}, ""}, {Waiting{Detach: true}, ""}, {Waiting{Run: id}, ""},
		{Waiting{Run: "../" + id}, "is no id of a run"}, {Waiting{Run: "rewind-" + id}, "is no id of a run"},
		{Waiting{Run: id, Detach: true}, "begins a run, and run looks at one"},
	} {
		err := c.w.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.w, err, c.want)
		}
	}
}

func TestLookAtUnknownRunIsNotFound(t *testing.T) {
	_, err := Look(t.Context(), ansible.Call{}, "20200131t235959-123456-0a1b2c")
	if f := fault.Of(err); f == nil || f.Code != fault.NotFound || f.Hint == "" {
		t.Errorf("%v", err)
	}
}
