package plugin

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// The functions full… return values with something in every field. TestFullValuesAreFull makes sure of that.

var instant = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)

func fullConfig() backup.Config {
	return backup.Config{
		Options: map[string]any{
			"path": "/mnt/päth\n", "keep": 7.0, "fraction": 0.5, "on": true, "null": nil,
			"list": []any{"a", 1.0}, "map": map[string]any{"a": map[string]any{"b": "c"}},
		},
		Environment: map[string]string{"PASSWORD": "a b=c\n\u2028<&>"},
		Host:        "host-a",
		Machine:     "1234",
		Scratch:     "/run/rewind/scratch",
	}
}

func fullTree() backup.Tree {
	return backup.Tree{
		Host: "host-a", Set: "snap", Time: instant, Roots: []string{"/dat", "/dat/wal"},
		ReadAll: true, Records: "/var/lib/rewind/records/a", Record: "/run/rewind/record",
	}
}

func fullStored() backup.Stored {
	t := fullTree()
	return backup.Stored{
		ID: "20260102T030405Z", Host: t.Host, Set: t.Set, Time: t.Time, Roots: t.Roots, Incomplete: true, Sequence: 7,
		Files: 1 << 60, Bytes: 1<<62 + 1, Added: 3, Warnings: []string{"/dat/socket: a socket"}, Damaged: "no JSON",
		Machine: "1234",
	}
}

func fullList() []backup.Stored {
	older := fullStored()
	older.ID, older.Time = "other", instant.Add(-time.Nanosecond)
	return []backup.Stored{fullStored(), older}
}

func fullDescription() backup.Description {
	return backup.Description{
		Name: "a", Version: "1", Local: []string{"/mnt"}, Recording: true, Features: []string{"b", "c"},
	}
}

func fullProgress() backup.Progress {
	return backup.Progress{Label: "a", Done: 1 << 60, Total: 1<<62 + 1, Files: 3}
}

func fullPresented() backup.Presented {
	return backup.Presented{
		Roots: map[string]string{"/dat": "/mnt/a", "/dat/wal": "/mnt/b"}, Flags: "/mnt/flags", NoDevices: true, Direct: true,
	}
}

func fullFault() *fault.Error {
	return &fault.Error{
		Code: fault.SourceUnreadable, Msg: "two files", Hint: "look at them",
		Facts: map[string]any{"paths": []any{"/a", "/b"}, "rc": 23.0, "map": map[string]any{"a": nil}},
	}
}

func TestFullValuesAreFull(t *testing.T) {
	for _, full := range []any{
		fullConfig(), fullTree(), fullStored(), fullDescription(), fullProgress(), fullPresented(),
	} {
		v := reflect.ValueOf(full)
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%T.%s is empty, so the other tests would not see if it got lost", full, v.Type().Field(i).Name)
			}
		}
	}
}

// compareArguments returns an error if the arguments that arrived are not those that were sent.
func compareArguments(method string, got, want any) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return errors.New(method + " got other arguments (-sent +received):\n" + diff)
	}
	return nil
}

func echoStore(c backup.Config, t backup.Tree, report backup.Report) (backup.Stored, error) {
	report(fullProgress())
	if err := compareArguments("Store", []any{c, t}, []any{fullConfig(), fullTree()}); err != nil {
		return backup.Stored{}, err
	}
	return fullStored(), fullFault()
}

// Every field of the contract's types arrives as it was sent, in both directions.
func TestEveryFieldCrossesTheWire(t *testing.T) {
	t.Parallel()
	c, ctx := start(t, "echoes"), t.Context()
	same := func(what string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(fault.Error{}, "Err")); diff != "" {
			t.Errorf("%s (-sent +received):\n%s", what, diff)
		}
	}
	noError := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	description, err := c.Describe(ctx, fullConfig())
	noError("Describe", err)
	same("Describe", fullDescription(), description)

	var progress []backup.Progress
	collect := func(p backup.Progress) { progress = append(progress, p) }
	stored, err := c.Store(ctx, fullConfig(), fullTree(), collect)
	same("Store", fullStored(), stored)
	same("Store's fault", error(fullFault()), err)
	same("Store's progress", []backup.Progress{fullProgress()}, progress)

	all, err := c.List(ctx, fullConfig(), "host-a")
	noError("List", err)
	same("List", fullList(), all)

	progress = nil
	var presented backup.Presented
	noError("Present", c.Present(ctx, fullConfig(), "an id", collect, func(_ context.Context, p backup.Presented) error {
		presented = p
		return nil
	}))
	same("Present's progress", []backup.Progress{fullProgress()}, progress)
	seenFromHost := fullPresented()
	seenFromHost.Flags = filepath.Join("/proc", c.process.ID(), "root", seenFromHost.Flags)
	for root, dir := range seenFromHost.Roots {
		seenFromHost.Roots[root] = filepath.Join("/proc", c.process.ID(), "root", dir)
	}
	same("Presented", seenFromHost, presented)

	warnings, err := c.Check(ctx, fullConfig())
	noError("Check", err)
	same("Check", []string{"it holds no ACLs"}, warnings)
	noError("Forget", c.Forget(ctx, fullConfig(), "an id"))
	noError("Settle", c.Settle(ctx, fullConfig()))
}
