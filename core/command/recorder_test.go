package command_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/command"
)

// fakeRunner maps the name of a program to the error of its run.
type fakeRunner map[string]error

func (f fakeRunner) Run(_ context.Context, c command.Cmd) (command.Output, error) {
	return command.Output{Elapsed: 1500 * time.Microsecond}, f[c.Argv[0]]
}

func TestRecorderRecordsExitCodes(t *testing.T) {
	r := command.NewRecorder(fakeRunner{
		"lvcreate": &command.Error{Code: 5, Err: errors.New("failed")},
		"dmsetup":  errors.New("not an *Error"),
	})
	argv := []string{"lvs", "-a"}
	for _, a := range [][]string{argv, {"lvcreate"}, {"dmsetup"}} {
		_, _ = r.Run(t.Context(), command.Cmd{Argv: a})
	}
	argv[1] = "changed later"
	want := []command.Record{
		{Argv: []string{"lvs", "-a"}, RC: 0, MS: 1},
		{Argv: []string{"lvcreate"}, RC: 5, MS: 1},
		{Argv: []string{"dmsetup"}, RC: -1, MS: 1},
	}
	if diff := cmp.Diff(want, r.Commands()); diff != "" {
		t.Error(diff)
	}
}

func TestRecorderIsSafeForConcurrentUse(t *testing.T) {
	r := command.NewRecorder(fakeRunner{})
	var all sync.WaitGroup
	for range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			_, _ = r.Run(t.Context(), command.Cmd{Argv: []string{"lvs"}})
		}()
	}
	all.Wait()
	if n := len(r.Commands()); n != 50 {
		t.Errorf("%d of 50 commands are recorded", n)
	}
}
