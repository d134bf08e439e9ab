// Package ansibletest shows what a person sees of a module's answers, on a terminal and elsewhere. It plays scripts
// (testscript) in which the module's program does everything but its work: it checks its arguments, and its work is the
// answer in the file that the variable ANSWER names. Such a file holds what Ansible got, or several faults one after
// the other, of which the variable FAULT names one by its code.
package ansibletest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
)

// Main is the TestMain of a module's package. In scripts the module is a command of its own name.
func Main[A any](m *testing.M, module ansible.Module[A]) {
	testscript.Main(m, map[string]func(){module.Name: func() {
		module.Run = func(_ context.Context, c ansible.Call, _ A) (ansible.Result, error) { return replay(c) }
		ansible.Main(module.Program())
	}})
}

var update = flag.Bool("update", false, "write the golden files, and what the programs print into the scripts, anew")

// Golden compares a text with the golden file that holds it, or writes it there with -update.
func Golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", file, diff)
	}
}

// Play plays the scripts in testdata/screen. In them $answers is the directory answers, which holds the answers, and
// the time zone is UTC.
func Play(t *testing.T, answers string) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/screen", UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			dir, err := os.Getwd()
			env.Setenv("answers", dir+"/"+answers)
			env.Setenv("TZ", "UTC")
			return err
		},
	})
}

// progress is a line of the file that the variable PROGRESS names: how far the work was at one time.
type progress struct {
	Label   string  `json:"label"`
	Percent float64 `json:"percent"`
	Bytes   int64   `json:"bytes"`
}

// replay shows the recorded progress, if there is any, and returns the recorded answer.
func replay(c ansible.Call) (ansible.Result, error) {
	if err := replayProgress(c); err != nil {
		return ansible.Result{}, err
	}
	if code := fault.Code(os.Getenv("FAULT")); code != "" {
		return ansible.Result{}, recordedFault(code)
	}
	text, err := os.ReadFile(os.Getenv("ANSWER"))
	if err != nil {
		return ansible.Result{}, fmt.Errorf("ANSWER: %w", err)
	}
	var result ansible.Result
	var failure fault.Error
	if err := cmp.Or(json.Unmarshal(text, &result), json.Unmarshal(text, &failure)); err != nil {
		return result, fmt.Errorf("ANSWER: %w", err)
	}
	if result.Data["failed"] != true {
		return result, nil
	}
	failure.Facts = result.Data // Ansible gets the facts beside the other keys
	return ansible.Result{}, &failure
}

// recordedFault returns the first fault of that code among those in the file that the variable ANSWER names.
func recordedFault(code fault.Code) error {
	file, err := os.Open(os.Getenv("ANSWER"))
	if err != nil {
		return fmt.Errorf("ANSWER: %w", err)
	}
	defer file.Close()
	for d := json.NewDecoder(file); ; {
		var recorded fault.Error
		if err := d.Decode(&recorded); err != nil {
			return fmt.Errorf("FAULT=%s: %w", code, err)
		}
		if recorded.Code == code {
			return &recorded
		}
	}
}

func replayProgress(c ansible.Call) error {
	file := os.Getenv("PROGRESS")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("PROGRESS: %w", err)
	}
	bar := ansible.Bar(c.Progress, c.Terminal)
	defer bar.Done()
	for line := range strings.Lines(string(text)) {
		var p progress
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			return fmt.Errorf("PROGRESS: %w", err)
		}
		bar.Show(p.Label, p.Percent, p.Bytes)
	}
	return nil
}
