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
	"os"
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

	// Page is a page with a table of the attributes of files that a restore of each backend brings back, whose column for
	// this one has to say what it does. "": none.
	Page string

	// Unchanged is by what the backend knows a file that has not changed.
	Unchanged Unchanged

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
	// It inherits no environment, and with the race detector would sleep for a second when it ends.
	argv := []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self, served}
	log := make(chan string, 1000)
	c, err := plugin.Host{SocketDir: sockets, Log: func(line string) {
		select {
		case log <- line:
		default: // a thousand lines are enough to see what went wrong
		}
	}}.Start(t.Context(), plugin.Program{Name: "under-test", Argv: argv})
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

// Conform runs the suite; setup is called for each case. The cases run beside each other: a backend keeps nothing from
// one call to the next, and most of a case is waiting for tools.
func Conform(t *testing.T, setup func(t *testing.T) Fixture) {
	t.Parallel()
	run := func(t *testing.T, name string, check func(t *testing.T, f Fixture)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, setup(t))
		})
	}
	t.Run("in process", func(t *testing.T) {
		for name, check := range cases {
			run(t, name, func(t *testing.T, f Fixture) { check(begin(t, f)) })
		}
	})
	t.Run("over the wire", func(t *testing.T) {
		client := Start(t)
		for name, check := range cases {
			run(t, name, func(t *testing.T, f Fixture) {
				f.Backend = client
				check(begin(t, f))
			})
		}
		run(t, "a killed Store is settled", func(t *testing.T, f Fixture) { killed(begin(t, f)) })
		run(t, "a root is what is mounted there", mounted)
		run(t, "a full disk has its own code", full)
	})
}
