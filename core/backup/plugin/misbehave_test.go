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

// testStall is how long those may be silent who will be.
const testStall = time.Second

// soon bounds every end: of a silence, and of what follows it.
const soon = testStall + 2*endLimit + 20*time.Second

// program is the program that plays a role.
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
	said := make(chan struct{})
	once := sync.OnceFunc(func() { close(said) })
	h := Host{SocketDir: socketDir(t), Log: func(line string) {
		t.Log(line)
		once()
	}}
	c, err := h.Start(t.Context(), program(role))
	if err != nil {
		t.Fatalf("start: %v\n%v", err, fault.Of(err).Facts)
	}
	<-said // its last words are the first ones, so that every fault has them
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		gone(t, c.PID())
	})
	return c
}

// gone checks that no process of the backend's session lives.
func gone(t *testing.T, pid int) {
	t.Helper()
	if left := members(pid); len(left) > 0 {
		t.Errorf("processes of backend %d live: %v", pid, left)
	}
}

// failed checks that a backend was found out in time, and what was said.
func failed(t *testing.T, err error, since time.Time, want ...string) {
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
	if words, _ := f.Facts["stderr"].(string); !strings.Contains(words, lastWords) {
		t.Errorf("the last words are %q, want %q among them", words, lastWords)
	}
	if took := time.Since(since); took > soon {
		t.Errorf("it took %v to find out", took)
	}
}

// A program that does not shake hands is found out; nothing of it stays.
func TestNoHandshake(t *testing.T) {
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
				h.Stall = 8 * testStall // that it starts takes a while as well, and longer under load
			}
			begun := time.Now()
			c, err := h.Start(t.Context(), program(role))
			if err == nil {
				c.Close()
			}
			failed(t, err, begun, want)
			pid, _ := fault.Of(err).Facts["pid"].(int)
			if pid == 0 {
				t.Fatal("the fact pid is missing")
			}
			gone(t, pid)
		})
	}
}

func TestStartIsCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Host{SocketDir: socketDir(t)}.Start(ctx, program("hangs at once"))
	if !errors.Is(err, context.DeadlineExceeded) || fault.Of(err).Code != fault.Timeout {
		t.Errorf("got %v, want the end of the context", err)
	}
}

// A backend that does not keep to the contract in a call is found out; nothing of it stays.
func TestMisbehaviour(t *testing.T) {
	storing := func(c *Client, ctx context.Context) error {
		stored, err := c.Store(ctx, backup.Config{}, aTree(), func(backup.Progress) {})
		if stored.ID != "" {
			return errors.New("a result was believed: " + stored.ID)
		}
		return err
	}
	describing := func(c *Client, ctx context.Context) error {
		_, err := c.Describe(ctx, backup.Config{})
		return err
	}
	listing := func(c *Client, ctx context.Context) error {
		_, err := c.List(ctx, backup.Config{}, "host-a")
		return err
	}
	presenting := func(c *Client, ctx context.Context) error {
		return c.Present(ctx, backup.Config{Scratch: "/"}, "id", nil, func(ctx context.Context, _ backup.Presented) error {
			<-ctx.Done() // as long as the backend keeps it up
			return ctx.Err()
		})
	}
	for role, test := range map[string]struct {
		call func(*Client, context.Context) error
		want string
	}{
		"crashes":                       {storing, "it ended in the middle of Store: exit status 3"},
		"exits well":                    {storing, "it ended in the middle of Store: exit status 0"},
		"is killed":                     {storing, "it ended in the middle of Store: signal: killed"},
		"panics":                        {storing, "the backend panicked: at the disco"},
		"panics elsewhere":              {storing, "it ended in the middle of Store: exit status 2"},
		"stops":                         {storing, "it said nothing for 1s in Store"},
		"hangs":                         {storing, "it said nothing for 1s in Store"},
		"sends a huge message":          {storing, "it sent a message larger than 1048576 bytes in Store"},
		"returns no ID":                 {storing, `the ID "", which is not safe`},
		"returns an ID with a slash":    {storing, `the ID "../../etc", which is not safe`},
		"returns an ID like a flag":     {storing, `the ID "--delete", which is not safe`},
		"returns another host's":        {storing, "another backup than it was asked for"},
		"returns another set's":         {storing, "another backup than it was asked for"},
		"returns another time's":        {storing, "a backup of 2026-01-02T04:04:05Z, not of 2026-01-02T03:04:05Z"},
		"returns fewer roots":           {storing, "another backup than it was asked for"},
		"hides that it is not all":      {storing, "completeness"},
		"returns a negative number":     {storing, "a negative number"},
		"ends without a result":         {storing, "it ended Store without a result"},
		"says nothing in a fault":       {storing, "a fault that says nothing"},
		"returns nothing in a result":   {storing, "ended without a result"},
		"lists where nothing is listed": {storing, "sent what does not belong there"},
		"says nothing at all":           {storing, "sent what does not belong there"},
		"hangs in all":                  {describing, "it said nothing for 5s in Describe"},
		"has no name":                   {describing, "without a description"},
		"names a relative path":         {describing, `names "repository", which is no absolute path`},
		"lists the oldest first":        {listing, "the newest first"},
		"lists another host's":          {listing, `a backup of host "host-b"`},
		"lists an ID with a slash":      {listing, `the ID "a/b", which is not safe`},
		"presents nothing":              {presenting, "presented nothing"},
		"presents a relative path":      {presenting, `"dat", which are no absolute paths`},
		"presents a symbolic link":      {presenting, `"/proc/self/cwd", which is a symbolic link`},
		"lists flags at no path":        {presenting, `"flags", which is no absolute path`},
		"does not present":              {presenting, "ended without presenting anything"},
		"presents twice":                {presenting, "sent what does not belong there"},
		"does not wait for the release": {presenting, "ended while what it presented was in use"},
		"crashes in use":                {presenting, "it ended in the middle of Present: exit status 3"},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			c := start(t, role)
			if strings.Contains(test.want, "said nothing") {
				c.stall = testStall
			}
			begun := time.Now()
			failed(t, test.call(c, t.Context()), begun, test.want)
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if took := time.Since(begun); took > 2*soon {
				t.Errorf("it took %v until it was gone", took)
			}
			gone(t, c.PID())
			if left, _ := filepath.Glob(filepath.Join(c.home, "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// What is no program for this machine is not started, and says so.
func TestNoProgram(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{text: "exec format error", text + "-missing": "no such file"} {
		_, err := Host{SocketDir: socketDir(t)}.Start(t.Context(), Program{Name: "text", Argv: []string{path}})
		f := fault.Of(err)
		if f == nil || f.Code != fault.BackendFailed || !strings.Contains(f.Msg, "it cannot be started: ") || !strings.Contains(f.Msg, want) {
			t.Errorf("%s: got %v, want that it cannot be started: %s", path, err, want)
		}
	}
}
