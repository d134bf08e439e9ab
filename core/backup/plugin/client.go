package plugin

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// Client is a backend in a process of its own. What the process sends is checked against the contract before anybody
// believes it; what it does instead of answering is backend_failed, with its last words.
type Client struct {
	program Program
	home    string // holds its sockets, and is its TMPDIR
	stall   time.Duration
	words   *words

	plugin  *plugin.Client
	process *process
	conn    *grpc.ClientConn

	closing sync.Once
	closed  error
}

var _ backup.Backend = (*Client)(nil)

// PID returns the id of the backend's process, which is that of its session too.
func (c *Client) PID() int { return c.process.pid() }

// Close ends the process with all that it started and returns when they are gone; only what made a session of its own
// is left to the control group of the unit. A call that runs is cancelled and
// has five seconds to put away what it had begun. Later calls return what the first one did.
func (c *Client) Close() error {
	c.closing.Do(func() { c.closed = c.end() })
	return c.closed
}

func (c *Client) end() error {
	defer os.RemoveAll(c.home) // in memory, and gone with the next boot where it fails
	if !c.process.started() {
		return nil
	}
	if err := c.process.end(); err != nil {
		return c.failed("%w", err)
	}
	c.plugin.Kill() // closes the connection and ends go-plugin's goroutines
	return nil
}

func (c *Client) Describe(ctx context.Context, config backup.Config) (backup.Description, error) {
	res, err := c.call(ctx, describe, request{Config: config}, c.patient())
	if err != nil {
		return backup.Description{}, err
	}
	return c.described(res.Description)
}

func (c *Client) Store(ctx context.Context, config backup.Config, t backup.Tree, report backup.Report) (backup.Stored, error) {
	res, err := c.call(ctx, store, request{Config: config, Tree: t}, ear{report: report, limit: c.stall})
	return c.stored(t, res.Stored, err)
}

func (c *Client) List(ctx context.Context, config backup.Config, host string) ([]backup.Stored, error) {
	var all []backup.Stored
	_, err := c.call(ctx, list, request{Config: config, Host: host}, ear{listed: &all, limit: patience * c.stall})
	if err != nil {
		return nil, err
	}
	return all, c.ordered(host, all)
}

func (c *Client) Check(ctx context.Context, config backup.Config) ([]string, error) {
	result, err := c.call(ctx, check, request{Config: config}, c.patient())
	return result.Warnings, err
}

// Present calls use on the calling goroutine. The directories lead through /proc/PID/root, so that they are readable
// outside the backend's mount namespace, as long as the process lives.
func (c *Client) Present(ctx context.Context, config backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
	_, err := c.call(ctx, present, request{Config: config, ID: id}, ear{report: report, use: use, limit: c.stall})
	return err
}

func (c *Client) Forget(ctx context.Context, config backup.Config, id string) error {
	_, err := c.call(ctx, forget, request{Config: config, ID: id}, c.patient())
	return err
}

func (c *Client) Settle(ctx context.Context, config backup.Config) error {
	_, err := c.call(ctx, settle, request{Config: config}, c.patient())
	return err
}

// patient hears nothing but the end.
func (c *Client) patient() ear { return ear{limit: patience * c.stall} }

// ended tells whether the process has ended, or does so now, and waits for its last words.
func (c *Client) ended() bool {
	if !c.process.within(2 * endLimit) {
		return false
	}
	late := time.After(2 * drain)
	for !c.plugin.Exited() {
		select {
		case <-time.After(time.Millisecond):
		case <-late:
			return true
		}
	}
	return true
}

// again is what to do about a backend that failed and does not say what to do.
const again = "run the same again; if it happens again, its last words (stderr) and the system's journal may say why"

// failed is the fault of a backend that does not keep to its contract.
func (c *Client) failed(format string, a ...any) *fault.Error {
	f := fault.New(fault.BackendFailed, "backend %s: %w", c.program.Name, fmt.Errorf(format, a...))
	f.With("backend", c.program.Name).With("stderr", c.words.last()).
		WithHint(again)
	if c.process.started() {
		f.With("pid", c.process.pid())
	}
	return f
}
