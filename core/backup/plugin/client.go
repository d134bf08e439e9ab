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

// Client is a backend in a process of its own. Everything that the process sends is checked against the contract. If
// the process breaks the contract, ends, or does not answer in time, the fault is backend_failed, with the last output
// of the process.
type Client struct {
	program Program
	tempDir string // the TMPDIR of the process, which also has its sockets
	stall   time.Duration
	output  *outputLog

	plugin  *plugin.Client
	process *process
	conn    *grpc.ClientConn

	closing  sync.Once
	closeErr error
}

var _ backup.Backend = (*Client)(nil)

// PID returns the ID of the backend's process, which is also the ID of its session.
func (c *Client) PID() int { return c.process.pid() }

// Close ends the process with all that it started, and returns when they have ended. Processes that made a session of
// their own are left to systemd, which ends them with the unit. A call that is under way is cancelled and has five
// seconds to clean up what it had begun. Later calls of Close return the same as the first one. Fault: backend_failed
// if a process cannot be killed.
func (c *Client) Close() error {
	c.closing.Do(func() { c.closeErr = c.end() })
	return c.closeErr
}

func (c *Client) end() error {
	defer os.RemoveAll(c.tempDir) // if this fails, the next boot removes it, because it is in memory
	if !c.process.wasStarted() {
		return nil
	}
	if err := c.process.end(); err != nil {
		return c.failure("%w", err)
	}
	c.plugin.Kill() // closes the connection and ends go-plugin's goroutines
	return nil
}

// Describe implements backup.Backend.
func (c *Client) Describe(ctx context.Context, config backup.Config) (backup.Description, error) {
	res, err := c.call(ctx, describe, request{Config: config}, c.resultOnly())
	if err != nil {
		return backup.Description{}, err
	}
	return c.checkDescription(res.Description)
}

// Store implements backup.Backend.
func (c *Client) Store(
	ctx context.Context, config backup.Config, t backup.Tree, report backup.Report,
) (backup.Stored, error) {
	res, err := c.call(ctx, store, request{Config: config, Tree: t}, listener{report: report, maxSilence: c.stall})
	return c.checkStored(t, res.Stored, err)
}

// List implements backup.Backend.
func (c *Client) List(ctx context.Context, config backup.Config, host string) ([]backup.Stored, error) {
	var all []backup.Stored
	l := listener{list: &all, maxSilence: QuietFactor * c.stall}
	_, err := c.call(ctx, list, request{Config: config, Host: host}, l)
	if err != nil {
		return nil, err
	}
	return all, c.checkList(host, all)
}

// Check implements backup.Backend.
func (c *Client) Check(ctx context.Context, config backup.Config) ([]string, error) {
	result, err := c.call(ctx, check, request{Config: config}, c.resultOnly())
	return result.Warnings, err
}

// Present implements backup.Backend. It calls use on the calling goroutine. The paths that use gets lead through
// /proc/PID/root, so that they are readable outside the backend's mount namespace as long as the process lives.
func (c *Client) Present(ctx context.Context, config backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
	l := listener{report: report, use: use, maxSilence: c.stall}
	_, err := c.call(ctx, present, request{Config: config, ID: id}, l)
	return err
}

// Forget implements backup.Backend.
func (c *Client) Forget(ctx context.Context, config backup.Config, id string) error {
	_, err := c.call(ctx, forget, request{Config: config, ID: id}, c.resultOnly())
	return err
}

// Settle implements backup.Backend.
func (c *Client) Settle(ctx context.Context, config backup.Config) error {
	_, err := c.call(ctx, settle, request{Config: config}, c.resultOnly())
	return err
}

// resultOnly returns the listener for a method that sends nothing but its last answer.
func (c *Client) resultOnly() listener { return listener{maxSilence: QuietFactor * c.stall} }

// hasEnded reports whether the process ends within ten seconds. If it does, hasEnded also waits, for at most two
// seconds, until all output of the process has been read.
func (c *Client) hasEnded() bool {
	if !c.process.exitedWithin(2 * endTimeout) {
		return false
	}
	deadline := time.After(2 * drainLimit)
	for !c.plugin.Exited() {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			return true
		}
	}
	return true
}

// retryHint is the hint of a fault for which the backend gives none.
const retryHint = "run the same again; if it happens again, its last words (stderr) and systemd's journal may say why"

// failure returns the fault backend_failed, with the last output of the process.
func (c *Client) failure(format string, a ...any) *fault.Error {
	f := fault.New(fault.BackendFailed, "backend %s: %w", c.program.Name, fmt.Errorf(format, a...))
	f.With("backend", c.program.Name).With("stderr", c.output.tail()).
		WithHint(retryHint)
	if c.process.wasStarted() {
		f.With("pid", c.process.pid())
	}
	return f
}
