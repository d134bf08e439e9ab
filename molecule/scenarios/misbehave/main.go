// Misbehave is a backend for the scenarios. Its option "role" says in which way it misbehaves: it crashes, it hangs, or
// it says that it has stored what it has not. The scenarios test what Rewind makes of that on real volumes. The tests
// of package plugin have more such cases.
package main

import (
	"context"
	"fmt"
	"os"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
)

func main() { os.Exit(plugin.Serve(backend{})) }

type backend struct{}

func (backend) Describe(context.Context, backup.Config) (backup.Description, error) {
	return backup.Description{Name: "misbehave", Version: "1"}, nil
}

// Store misbehaves while it keeps a directory of the tree open, so that the mount is in use.
func (backend) Store(_ context.Context, c backup.Config, t backup.Tree, report backup.Report) (backup.Stored, error) {
	held, err := os.Open(t.Roots[0])
	if err != nil {
		return backup.Stored{}, fault.New(fault.SourceUnreadable, "%w", err)
	}
	defer held.Close()
	report(backup.Progress{Label: "misbehaving"})
	switch c.Options["role"] {
	case "crash":
		panic("as it was told to")
	case "hang":
		select {}
	case "print":
		fmt.Println("a line on stdout")
	}
	return backup.Stored{ID: "20260101T000000Z", Host: t.Host, Set: t.Set, Time: t.Time, Roots: t.Roots}, nil
}

func (backend) List(context.Context, backup.Config, string) ([]backup.Stored, error) { return nil, nil }

func (backend) Check(context.Context, backup.Config) ([]string, error) { return nil, nil }

func (backend) Present(
	context.Context, backup.Config, string, backup.Report, func(context.Context, backup.Presented) error,
) error {
	return fault.New(fault.NotFound, "there is no backup")
}

func (backend) Forget(context.Context, backup.Config, string) error { return nil }

func (backend) Settle(context.Context, backup.Config) error { return nil }
