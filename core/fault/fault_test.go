package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/fault"
)

// programError is a fault.Faulter, like command.Error.
type programError struct{}

func (programError) Error() string { return "lvs: exit code 5" }
func (programError) Fault() *fault.Error {
	return fault.New(fault.CommandFailed, "lvs: exit code 5").With("rc", 5)
}

func TestOf(t *testing.T) {
	busy := fault.New(fault.Busy, "/dat is busy").WithHint("stop it")
	tests := []struct {
		name string
		err  error
		code fault.Code
		msg  string
		hint string
	}{
		{"a fault", busy, fault.Busy, "/dat is busy", "stop it"},
		{"a wrapped fault", fmt.Errorf("merge: %w", busy), fault.Busy, "merge: /dat is busy", "stop it"},
		{"a wrapped Faulter", fmt.Errorf("look: %w", programError{}), fault.CommandFailed, "look: lvs: exit code 5", ""},
		{"deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), fault.Timeout, "wait: context deadline exceeded", ""},
		{"cancelled", context.Canceled, fault.Interrupted, "context canceled", ""},
		{"any other", errors.New("other"), fault.Internal, "other", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := fault.Of(tt.err)
			if e.Code != tt.code || e.Msg != tt.msg || e.Hint != tt.hint {
				t.Errorf("got %q %q %q, want %q %q %q", e.Code, e.Msg, e.Hint, tt.code, tt.msg, tt.hint)
			}
			if !errors.Is(e, tt.err) {
				t.Error("the cause is not wrapped")
			}
		})
	}
	if fault.Of(nil) != nil {
		t.Error("nil becomes a fault")
	}
}

func TestNewTakesOverFactsOfItsCause(t *testing.T) {
	e := fault.New(fault.MergeFailed, "merge vg00/dat: %w", programError{}).With("volume", "vg00/dat")
	want := map[string]any{"rc": 5, "volume": "vg00/dat"}
	if diff := cmp.Diff(want, e.Facts); diff != "" {
		t.Error(diff)
	}
	if !errors.Is(e, fault.MergeFailed) || errors.Is(e, fault.Busy) {
		t.Error("errors.Is must match the code and no other")
	}
	var p programError
	if !errors.As(e, &p) {
		t.Error("the cause is not wrapped")
	}
}

func TestNewWithoutCauseWrapsNothing(t *testing.T) {
	if err := fault.New(fault.Busy, "busy").Unwrap(); err != nil {
		t.Errorf("it wraps %v", err)
	}
}

func TestAllJoinsErrors(t *testing.T) {
	var nilFault *fault.Error
	a := fault.New(fault.NoSpace, "vg00 is full").WithHint("free some").With("volumes", []string{"a"}).With("free", 1)
	b := fault.New(fault.Busy, "/dat is busy").WithHint("free some").With("volumes", []string{"b"}).With("free", 2)
	c := fault.New(fault.Merging, "vg00/c is merging").WithHint("wait")

	if err := fault.All(nil, nilFault); err != nil {
		t.Errorf("nil errors give %v", err)
	}
	if err := fault.All(nil, a, nil); err != error(a) {
		t.Errorf("one error gives %v", err)
	}
	e := fault.Of(fault.All(fault.All(a, b), nil, c))
	if e.Code != fault.NoSpace || e.Msg != "vg00 is full; /dat is busy; vg00/c is merging" || e.Hint != "free some; wait" {
		t.Errorf("got %q %q %q", e.Code, e.Msg, e.Hint)
	}
	want := map[string]any{
		"volumes": []string{"a", "b"},
		"free":    1,
		"problems": []fault.Problem{
			{Code: fault.NoSpace, Msg: "vg00 is full", Hint: "free some"},
			{Code: fault.Busy, Msg: "/dat is busy", Hint: "free some"},
			{Code: fault.Merging, Msg: "vg00/c is merging", Hint: "wait"},
		},
	}
	if diff := cmp.Diff(want, e.Facts); diff != "" {
		t.Error(diff)
	}
}

func TestAllDoesNotChangeFactsOfItsParts(t *testing.T) {
	backing := []string{"a", "spare"}
	a := fault.New(fault.Busy, "a").With("volumes", backing[:1])
	b := fault.New(fault.Busy, "b").With("volumes", []string{"b"})
	_ = fault.All(a, b)
	if backing[1] != "spare" {
		t.Error("All wrote into the list of one of its parts")
	}
}

func TestJoinedFaultMatchesEachCode(t *testing.T) {
	err := fault.All(fault.New(fault.NoSpace, "a"), fault.New(fault.Busy, "b"))
	if !errors.Is(err, fault.NoSpace) || !errors.Is(err, fault.Busy) || errors.Is(err, fault.Timeout) {
		t.Error("errors.Is must find the code of every part and no other")
	}
}

func TestEachReturnsJoinedErrors(t *testing.T) {
	var nilFault *fault.Error
	a, b := fault.New(fault.Busy, "a"), errors.New("b")
	c := fault.New(fault.Timeout, "c: %w and %w", errors.New("x"), errors.New("y"))
	tests := []struct {
		name string
		err  error
		want []error
	}{
		{"nil", nil, nil},
		{"a nil fault", nilFault, nil},
		{"one", a, []error{a}},
		{"one with two causes", c, []error{c}},
		{"several, nested", fault.All(fault.All(a, b), c), []error{a, b, c}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := fault.Each(tt.err); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestJSONOmitsTheCause(t *testing.T) {
	data, err := json.Marshal(fault.New(fault.Busy, "busy: %w", errors.New("cause")).With("pid", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(data), `{"code":"busy","msg":"busy: cause","facts":{"pid":1}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPathIsNamedOnce(t *testing.T) {
	_, err := os.ReadFile("/nowhere")
	for format, want := range map[string]string{
		"read %s: %w": "read /nowhere: no such file or directory",
		"%s: %w":      "/nowhere: no such file or directory",
	} {
		f := fault.New(fault.NotFound, format, "/nowhere", err)
		if f.Error() != want || !errors.Is(f, fs.ErrNotExist) {
			t.Errorf("%q: %v", format, f)
		}
	}
	f := fault.New(fault.NotFound, "%s: %w", "/other", err)
	if f.Error() != "/other: open /nowhere: no such file or directory" {
		t.Error(f)
	}
}
