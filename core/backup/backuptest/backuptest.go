// Package backuptest holds what every backend must keep to: one suite, run in the test's own process and again over the
// wire, against a backend in a process of its own.
//
// A backend's test is
//
//	func TestMain(m *testing.M) { backuptest.Main(m, New()) }
//
//	func TestConformance(t *testing.T) { backuptest.Conform(t, setup) }
//
// where setup makes an empty repository, which lies below t.TempDir(), for each case.
package backuptest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
)

// Fixture is a backend and an empty repository. The suite gives every Config a Scratch.
type Fixture struct {
	Backend backup.Backend
	Config  backup.Config // names a repository that is there, and empty
	Missing backup.Config // names one that is not there

	// Whole: every backup takes as much room as the first one.
	Whole bool

	// Local is the directory that holds the repository of Config, and which Describe has to name among Local.
	Local string
}

// limit bounds every single call of the suite.
const limit = 2 * time.Minute

// served is the argument that makes a test binary serve its backend.
const served = "serve-the-backend-of-this-test"

// Main is the TestMain of a backend: it runs the tests or, started by one of them as the backend's program, serves b.
func Main(m *testing.M, b backup.Backend) {
	if len(os.Args) == 2 && os.Args[1] == served {
		os.Exit(plugin.Serve(b))
	}
	os.Exit(m.Run())
}

// Start starts the backend that Main serves as a process of its own, and closes it at the end of the test. What it
// prints goes to the test's log.
func Start(t *testing.T) *plugin.Client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir() is too long for a socket.
	sockets, err := os.MkdirTemp("", "sockets")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	log := make(chan string, 1000)
	c, err := plugin.Host{SocketDir: sockets, Log: func(line string) {
		select {
		case log <- line:
		default: // a thousand lines are enough to see what went wrong
		}
	}}.Start(t.Context(), plugin.Program{Name: "under-test", Argv: []string{self, served}})
	if err != nil {
		t.Fatalf("start the backend: %v\n%v", err, fault.Of(err).Facts)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close the backend: %v", err)
		}
		close(log)
		for line := range log {
			t.Log("backend:", line)
		}
	})
	return c
}

// Conform runs the suite; setup is called for each case.
func Conform(t *testing.T, setup func(t *testing.T) Fixture) {
	t.Run("in process", func(t *testing.T) {
		for name, check := range cases {
			t.Run(name, func(t *testing.T) { check(begin(t, setup(t))) })
		}
	})
	t.Run("over the wire", func(t *testing.T) {
		client := Start(t) // a backend keeps nothing from one call to the next
		for name, check := range cases {
			t.Run(name, func(t *testing.T) {
				f := setup(t)
				f.Backend = client
				check(begin(t, f))
			})
		}
		t.Run("a killed Store is settled", func(t *testing.T) { killed(begin(t, setup(t))) })
		t.Run("a root is what is mounted there", func(t *testing.T) { mounted(t, setup(t)) })
		t.Run("a full disk has its own code", func(t *testing.T) { full(t, setup(t)) })
	})
}

// bench is one case at work.
type bench struct {
	*testing.T
	Fixture
	ctx  context.Context
	work string // for trees
}

func begin(t *testing.T, f Fixture) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	b := &bench{T: t, Fixture: f, ctx: ctx, work: t.TempDir()}
	scratch := filepath.Join(t.TempDir(), "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	b.Config.Scratch, b.Missing.Scratch = scratch, scratch
	t.Cleanup(func() {
		left, err := os.ReadDir(scratch)
		if err != nil || len(left) > 0 {
			t.Errorf("left in Scratch: %v %v", left, err)
		}
	})
	return b
}

// at is a set's instant, n minutes after the first one of the suite.
func at(n int) time.Time { return time.Date(2026, 3, 4, 5, 6+n, 7, 0, time.UTC) }

// tree is what is to be stored in the n-th minute.
func (b *bench) tree(n int, roots ...string) backup.Tree {
	return backup.Tree{Host: "host-a", Set: "snap", Time: at(n), Roots: roots}
}

// store stores a tree that nothing is wrong with.
func (b *bench) store(t backup.Tree) backup.Stored {
	b.Helper()
	stored, err := b.Backend.Store(b.ctx, b.Config, t, ignore)
	if err != nil {
		b.Fatalf("Store: %v\n%v", err, fault.Of(err).Facts)
	}
	return stored
}

func (b *bench) list(host string) []backup.Stored {
	b.Helper()
	all, err := b.Backend.List(b.ctx, b.Config, host)
	if err != nil {
		b.Fatalf("List: %v", err)
	}
	return all
}

// ids are those of a list.
func ids(all []backup.Stored) []string {
	list := []string{}
	for _, s := range all {
		list = append(list, s.ID)
	}
	return list
}

func ignore(backup.Progress) {}

// wantCode fails the test if err is not a failure of the code.
func (b *bench) wantCode(what string, err error, code fault.Code) {
	b.Helper()
	if err == nil || fault.Of(err).Code != code {
		b.Errorf("%s: %v (code %q), want code %q", what, err, codeOf(err), code)
	}
}

func codeOf(err error) fault.Code {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}
