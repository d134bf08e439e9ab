package ansible_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// sample has arguments of every type and with every tag.
type sample struct {
	Volumes     []volume          `mapstructure:"volumes" alias:"volume" doc:"What to take: mount points, vg/lv or devices."`
	Name        string            `mapstructure:"name" doc:"Name of the set."`
	State       string            `mapstructure:"state" choices:"present,absent,mounted" doc:"What there shall be."`
	Size        string            `mapstructure:"size" doc:"Room for each snapshot."`
	Services    []string          `mapstructure:"services" alias:"service"`
	Wait        bool              `mapstructure:"wait"`
	Keep        *int              `mapstructure:"keep"`
	Small       int8              `mapstructure:"small"`
	Port        uint16            `mapstructure:"port"`
	Ratio       float64           `mapstructure:"ratio"`
	Environment map[string]string `mapstructure:"environment"`
	Anything    any               `mapstructure:"anything"`
	Password    string            `mapstructure:"password" secret:"true" doc:"For the repository."`
	Tokens      map[string]string `mapstructure:"tokens" keys:"token" secret:"true"`
	Limits      `mapstructure:",squash"`

	Act string `mapstructure:"act" doc:"What the sample does."`

	Untagged string // not an argument
}

// Limits has arguments that several modules can share.
type Limits struct {
	Timeout time.Duration `mapstructure:"timeout" doc:"How long to wait."`
}

// volume is a path, or a mapping.
type volume struct {
	Path    string
	VG      string   `mapstructure:"vg" doc:"Volume group."`
	LV      string   `mapstructure:"lv"`
	Size    int64    `mapstructure:"size"`
	Options []string `mapstructure:"options" choices:"ro,noatime"`
	Key     string   `mapstructure:"key" secret:"true"`
}

func (v *volume) DecodeArg(raw any) error {
	if path, ok := raw.(string); ok {
		v.Path = path
		return nil
	}
	type mapping volume
	return ansible.Decode(raw, (*mapping)(v))
}

var errBusy = fault.New(fault.Busy, "/dat is held open").WithHint("stop them").
	With("holders", []map[string]any{{"kind": "process", "pid": 812, "command": "postgres", "unit": "postgresql.service",
		"path": "/dat/base"}}).
	With("changed", "a fact must not hide what the result says")

func module() ansible.Module[sample] {
	return ansible.Module[sample]{
		Name:    "sample",
		Summary: "Shows what a module can do.",
		Defaults: func() sample {
			return sample{
				Name: "snap", State: "present", Services: []string{"a", "b", "c"}, Wait: true,
				Environment: map[string]string{"A": "1"}, Limits: Limits{Timeout: time.Minute},
			}
		},
		Validate: func(a sample) error {
			var wrong []error
			if a.Name == "" || a.Name[0] == '-' {
				wrong = append(wrong, ansible.Bad("name", "must not begin with -"))
			}
			if a.Act != "quick" && len(a.Volumes) == 0 {
				wrong = append(wrong, ansible.Bad("volumes", "names nothing"))
			}
			if a.State != "mounted" && a.Size == "mounted" {
				wrong = append(wrong, ansible.BadFor("state", "size", "goes with state=mounted"))
			}
			return fault.All(wrong...)
		},
		Run:      runSample,
		Print:    func(w io.Writer, r ansible.Result) { fmt.Fprintln(w, "printed:", r.Msg, r.Data["count"]) },
		Examples: "sample volumes=/dat\nsample volumes=/dat --check\n",
		Internal: map[string]func(context.Context, []string) int{
			"settle": func(_ context.Context, args []string) int {
				fmt.Println("settling", args)
				return 7
			},
		},
	}
}

func runSample(ctx context.Context, c ansible.Call, a sample) (ansible.Result, error) {
	done := ansible.Result{
		Changed:  !c.Check,
		Msg:      fmt.Sprintf("took %d of %s", len(a.Volumes), a.Name),
		Data:     map[string]any{"count": len(a.Volumes), "msg": "not this one"},
		Commands: []command.Record{{Argv: []string{"lvs"}, RC: 0, MS: 3}},
		Diff:     &ansible.Diff{Before: "a\nb\nc\n", After: "a\nx\nc\n", AfterHeader: "then"},
	}
	switch a.Act {
	case "warn":
		done.Warnings = []string{"look out"}
	case "fail":
		return done, fmt.Errorf("merge: %w", errBusy)
	case "two":
		return done, fault.All(fault.New(fault.NoSpace, "vg00 is full").WithHint("free some"), errBusy)
	case "odd":
		return done, errors.New("odd")
	case "panic":
		var none *volume
		none.Path = a.Password
	case "panic-secret":
		panic("what about " + a.Password)
	case "nan":
		done.Data["f"] = func() {}
	case "leak":
		return leak(c, a)
	case "wait":
		<-ctx.Done()
		return done, ctx.Err()
	}
	return done, nil
}

// leak returns a result with every secret in every place, as careless code might.
func leak(c ansible.Call, a sample) (ansible.Result, error) {
	c.Secret("canary-from-a-file")
	secret := fmt.Sprintf("<%s %q %v %s canary-from-a-file>", a.Password, a.Password, a.Tokens, a.Volumes[0].Key)
	r := ansible.Result{
		Msg: secret,
		Data: map[string]any{"nested": []any{map[string]string{secret: secret}},
			"number": json.Number(cmp.Or(a.Tokens["canary-key"], "0"))},
		Warnings: []string{secret},
		Diff:     &ansible.Diff{Before: secret, After: secret},
		Commands: []command.Record{{Argv: []string{secret}}},
	}
	if a.State == "absent" {
		return r, fault.New(fault.NoKey, "%s", secret).WithHint("%s", secret).With("fact", secret)
	}
	return r, nil
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sample": func() { ansible.Main(module().Program()) }})
}

func TestProgramByHandAndByAnsible(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
	})
}
