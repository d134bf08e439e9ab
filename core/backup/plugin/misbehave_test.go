package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// testStall is the stall limit for backends that will be silent.
const testStall = time.Second

// timeout is how long a test waits at most: for the end of a silence, and for the end of the backend after that.
const timeout = testStall + 2*endTimeout + 20*time.Second

// program returns the program of a backend with this role.
func program(role string) Program {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Program{Name: role, Argv: []string{self, "act", role}}
}

// socketDir returns a directory for sockets, which must be empty at the end of the test. t.TempDir() is too long for
// the path of a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sockets")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("sockets are left: %v", err)
			os.RemoveAll(dir)
		}
	})
	return dir
}

func start(t *testing.T, role string) *Client {
	t.Helper()
	printed := make(chan struct{})
	once := sync.OnceFunc(func() { close(printed) })
	h := Host{SocketDir: socketDir(t), Log: func(line string) {
		t.Log(line)
		once()
	}}
	c, err := h.Start(t.Context(), program(role))
	if err != nil {
		t.Fatalf("start: %v\n%v", err, fault.Of(err).Facts)
	}
	<-printed // wait for startupLine, so that every fault has it
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wantNoProcesses(t, c.PID())
	})
	return c
}

// wantNoProcesses fails the test if a process of the backend's session is alive.
func wantNoProcesses(t *testing.T, pid int) {
	t.Helper()
	if left := sessionProcesses(pid); len(left) > 0 {
		t.Errorf("processes of backend %d are alive: %v", pid, left)
	}
}

// wantFailure checks that err is backend_failed, has the texts in its message, and came in time.
func wantFailure(t *testing.T, err error, since time.Time, want ...string) {
	t.Helper()
	f := fault.Of(err)
	if f == nil || f.Code != fault.BackendFailed {
		t.Fatalf("got %v (%v), want backend_failed", err, f)
	}
	for _, text := range want {
		if !strings.Contains(f.Msg, text) {
			t.Errorf("it says %q, want %q", f.Msg, text)
		}
	}
	if f.Hint == "" {
		t.Errorf("%q comes without a hint", f.Msg)
	}
	if output, _ := f.Facts["stderr"].(string); !strings.Contains(output, startupLine) {
		t.Errorf("the last output is %q, want %q in it", output, startupLine)
	}
	if took := time.Since(since); took > timeout {
		t.Errorf("the failure came only after %v", took)
	}
}

// The start of a program that does not make the handshake fails, and no process of it is left.
func TestStartWithoutHandshakeFails(t *testing.T) {
	for role, want := range map[string]string{
		"exits at once":            "it ended before it shook hands: exit status 3",
		"exits well at once":       "it ended before it shook hands: exit status 0",
		"hangs at once":            "it did not shake hands within 8s",
		"greets wrongly":           `it printed "hello, world" on stdout, where the handshake belongs`,
		"greets without end":       `it printed "xxxx`,
		"has another version":      "Plugin version: 9, Client versions: [1]",
		"has no certificate":       "it did not shake hands",
		"listens and never speaks": "it did not shake hands",
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			h := Host{SocketDir: socketDir(t)}
			if strings.Contains(role, "hangs") || strings.Contains(role, "never") {
				h.Stall = 8 * testStall // the start of the process alone takes a while, and longer under load
			}
			begun := time.Now()
			c, err := h.Start(t.Context(), program(role))
			if err == nil {
				c.Close()
			}
			wantFailure(t, err, begun, want)
			pid, _ := fault.Of(err).Facts["pid"].(int)
			if pid == 0 {
				t.Fatal("the fact pid is missing")
			}
			wantNoProcesses(t, pid)
		})
	}
}

func TestStartEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Host{SocketDir: socketDir(t)}.Start(ctx, program("hangs at once"))
	if !errors.Is(err, context.DeadlineExceeded) || fault.Of(err).Code != fault.Timeout {
		t.Errorf("got %v, want the end of the context", err)
	}
}

// A call of a backend that does not keep to the contract fails, and no process of the backend is left.
func TestMisbehavingBackendFails(t *testing.T) {
	store := func(c *Client, ctx context.Context) error {
		stored, err := c.Store(ctx, backup.Config{}, sampleTree(), func(backup.Progress) {})
		if stored.ID != "" {
			return errors.New("a wrong result was accepted: " + stored.ID)
		}
		return err
	}
	describe := func(c *Client, ctx context.Context) error {
		_, err := c.Describe(ctx, backup.Config{})
		return err
	}
	list := func(c *Client, ctx context.Context) error {
		_, err := c.List(ctx, backup.Config{}, "host-a")
		return err
	}
	present := func(c *Client, ctx context.Context) error {
		return c.Present(ctx, backup.Config{Scratch: "/"}, "id", nil, func(ctx context.Context, _ backup.Presented) error {
			<-ctx.Done() // it ends when the backend ends the call
			return ctx.Err()
		})
	}
	for role, test := range map[string]struct {
		call func(*Client, context.Context) error
		want string
	}{
		"crashes":                       {store, "it ended in the middle of Store: exit status 3"},
		"exits well":                    {store, "it ended in the middle of Store: exit status 0"},
		"is killed":                     {store, "it ended in the middle of Store: signal: killed"},
		"panics":                        {store, "the backend panicked: at the disco"},
		"panics elsewhere":              {store, "it ended in the middle of Store: exit status 2"},
		"stops":                         {store, "it said nothing for 1s in Store"},
		"hangs":                         {store, "it said nothing for 1s in Store"},
		"sends a huge message":          {store, "it sent a message larger than 1048576 bytes in Store"},
		"returns no ID":                 {store, `the ID "", which is not safe`},
		"returns an ID with a slash":    {store, `the ID "../../etc", which is not safe`},
		"returns an ID like a flag":     {store, `the ID "--delete", which is not safe`},
		"returns another host's":        {store, "another backup than it was asked for"},
		"returns another set's":         {store, "another backup than it was asked for"},
		"returns another time's":        {store, "a backup of 2026-01-02T04:04:05Z, not of 2026-01-02T03:04:05Z"},
		"returns fewer roots":           {store, "another backup than it was asked for"},
		"hides that it is not all":      {store, "completeness"},
		"returns a negative number":     {store, "a negative number"},
		"ends without a result":         {store, "it ended Store without a result"},
		"says nothing in a fault":       {store, "a fault that says nothing"},
		"returns nothing in a result":   {store, "ended without a result"},
		"lists where nothing is listed": {store, "sent what does not belong there"},
		"says nothing at all":           {store, "sent what does not belong there"},
		"hangs in all":                  {describe, "it said nothing for 5s in Describe"},
		"has no name":                   {describe, "without a description"},
		"names a relative path":         {describe, `names "repository", which is no absolute path`},
		"lists the oldest first":        {list, "the newest first"},
		"lists another host's":          {list, `a backup of host "host-b"`},
		"lists an ID with a slash":      {list, `the ID "a/b", which is not safe`},
		"presents nothing":              {present, "presented nothing"},
		"presents a relative path":      {present, `"dat", which are no absolute paths`},
		"presents a symbolic link":      {present, `"/proc/self/cwd", which is a symbolic link`},
		"lists flags at no path":        {present, `"flags", which is no absolute path`},
		"does not present":              {present, "ended without presenting anything"},
		"presents twice":                {present, "sent what does not belong there"},
		"does not wait for the release": {present, "ended while what it presented was in use"},
		"crashes in use":                {present, "it ended in the middle of Present: exit status 3"},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			c := start(t, role)
			if strings.Contains(test.want, "said nothing") {
				c.stall = testStall
			}
			begun := time.Now()
			wantFailure(t, test.call(c, t.Context()), begun, test.want)
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if took := time.Since(begun); took > 2*timeout {
				t.Errorf("it took %v until the backend had ended", took)
			}
			wantNoProcesses(t, c.PID())
			if left, _ := filepath.Glob(filepath.Join(c.tempDir, "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Start fails for a file that this machine cannot execute, and says why.
func TestStartOfNonProgramFails(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{text: "exec format error", text + "-missing": "no such file"} {
		_, err := Host{SocketDir: socketDir(t)}.Start(t.Context(), Program{Name: "text", Argv: []string{path}})
		f := fault.Of(err)
		if f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "it cannot be started: ") ||
			!strings.Contains(f.Msg, want) {
			t.Errorf("%s: got %v, want that it cannot be started: %s", path, err, want)
		}
	}
}
