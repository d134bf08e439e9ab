// Package backuptest is the suite of tests that every backend must pass. It runs twice: in the process of the test, and
// over the wire with the backend in a process of its own.
//
// A backend's test is
//
//	func TestMain(m *testing.M) { backuptest.Main(m, New()) }
//
//	func TestConformance(t *testing.T) { backuptest.Conform(t, setup) }
//
// where setup makes an empty repository below t.TempDir() for each case.
package backuptest

import (
	"os"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/fault"
)

// Fixture is a backend with an empty repository. The suite sets Scratch in both Configs.
type Fixture struct {
	Backend backup.Backend
	Config  backup.Config // names a repository that exists and is empty
	Missing backup.Config // names a repository that does not exist

	// Whole says that every backup takes as much room as the first one, even if little has changed.
	Whole bool

	// Machines says that the backend notes which machine's backups are those of a host, and keeps others of that name from
	// changing them (Config.Machine).
	Machines bool

	// Lose removes the content of the backup with this ID, and not its entry in the list, as a person does who makes room
	// without knowing the layout. Nil: the list does not tell what has happened to the content.
	Lose func(id string) error

	// Entry returns the path of the file that describes the backup with this ID in the list. Nil: the repository has no
	// such files.
	Entry func(id string) string

	// Page is the path of a page with a table of the attributes of files that a restore brings back with each backend. The
	// suite checks the column of this backend. If Page is empty, it does not.
	Page string

	// Unchanged says how the backend knows that a file has not changed.
	Unchanged Unchanged

	// Local is the directory of the repository of Config. Describe must return it in Description.Local.
	Local string
}

// limit bounds the time of each case.
const limit = 2 * time.Minute

// serveArgument is the argument that makes a test binary serve its backend.
const serveArgument = "serve-the-backend-of-this-test"

// Main is the TestMain of a backend. It runs the tests; if a test has started the test binary as the backend's program,
// it serves b. It does not return.
func Main(m *testing.M, b backup.Backend) {
	if len(os.Args) == 2 && os.Args[1] == serveArgument {
		os.Exit(plugin.Serve(b))
	}
	os.Exit(m.Run())
}

// Start starts the backend that Main serves in a process of its own, and closes it at the end of the test. What it
// prints goes to the test's log, up to a thousand lines.
func Start(t *testing.T) *plugin.Client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir() is too long for the path of a socket.
	sockets, err := os.MkdirTemp("", "sockets")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	// With the race detector, a program sleeps for a second at its end unless GORACE says otherwise. The backend inherits
	// no environment, so env sets GORACE.
	argv := []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self, serveArgument}
	log := make(chan string, 1000)
	c, err := plugin.Host{SocketDir: sockets, Log: func(line string) {
		select {
		case log <- line:
		default: // the log is full
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

// Conform runs the suite. It calls setup for each case. The cases run in parallel, because a backend keeps nothing from
// one call to the next, and most of the time of a case is spent waiting for tools.
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
			run(t, name, func(t *testing.T, f Fixture) { check(newCase(t, f)) })
		}
	})
	t.Run("over the wire", func(t *testing.T) {
		client := Start(t)
		for name, check := range cases {
			run(t, name, func(t *testing.T, f Fixture) {
				f.Backend = client
				check(newCase(t, f))
			})
		}
		run(t, "a killed Store is settled", func(t *testing.T, f Fixture) { killedStore(newCase(t, f)) })
		run(t, "stores what is mounted at a root", mountedRoots)
		run(t, "a full disk has its own code", fullDisk)
	})
}
