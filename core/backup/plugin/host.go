package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"go.pcc.com/rewind/core/fault"
)

// Host starts backends.
type Host struct {
	// SocketDir is an existing directory below /run, mode 0700, for the sockets. Its path may have 60 bytes: that of a
	// socket has 107 (unix(7)).
	SocketDir string

	// Stall is how long a backend may be silent: until it has shaken hands (two minutes at most), and between two messages while it stores or
	// prepares to present. It has five times as long for the methods that report nothing. 0: two minutes.
	Stall time.Duration

	// Log receives what the backend prints, line by line; nil: it is dropped.
	Log func(line string)
}

// Start starts the program and shakes hands with it; the end of ctx ends the attempt. The process inherits the mount
// namespace of the calling goroutine's thread. It leads a session of its own, has /dev/null as stdin, and no more of an
// environment than LC_ALL, PATH, HOME, TMPDIR and the handshake's.
//
// A program that is not what SHA256 says is backend_untrusted, one that does not shake hands backend_failed. The
// client must be closed.
func (h Host) Start(ctx context.Context, p Program) (*Client, error) {
	if err := p.verify(); err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(h.SocketDir, "backend-")
	if err != nil {
		return nil, fault.New(fault.Internal, "directory for the sockets of backend %s: %w", p.Name, err)
	}
	c := &Client{program: p, home: home, stall: h.stall(), words: &words{log: h.Log}}
	if err := c.connect(ctx); err != nil {
		return nil, fault.All(c.unconnected(ctx, err), c.Close())
	}
	return c, nil
}

func (h Host) stall() time.Duration {
	if h.Stall <= 0 {
		return defaultStall
	}
	return h.Stall
}

// starting is how long it may take to shake hands.
func (c *Client) starting() time.Duration { return min(c.stall, startLimit) }

// connect starts the process and opens the connection. go-plugin waits for a process that neither speaks nor ends at
// several places, some of them without a limit; ending the process ends every wait.
func (c *Client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.starting())
	defer cancel()
	c.plugin = plugin.NewClient(c.config(ctx))
	protocol, err := c.plugin.Client()
	if err != nil {
		return err
	}
	conn, err := protocol.Dispense(name)
	if err != nil {
		return err
	}
	c.conn = conn.(*grpc.ClientConn)
	if err := protocol.Ping(); err != nil {
		return err
	}
	if !c.process.keep() {
		return ctx.Err()
	}
	return nil
}

func (c *Client) config(starting context.Context) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugin.PluginSet{name: glue{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     2 * c.stall, // the end of starting comes first
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: c.home},
		Stderr:           &lines{to: c.words},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			c.process = newProcess(starting, c.program, c.home, cmd.Env)
			return c.process, nil
		},
	}
}

// unconnected says why there is no connection.
func (c *Client) unconnected(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault.Of(fmt.Errorf("start backend %s: %w", c.program.Name, context.Cause(ctx)))
	}
	if !c.process.started() {
		return c.failed("it cannot be started: %w", err)
	}
	c.process.kill()
	ended := c.ended() // all that it said is here
	said := c.process.stdout.line()
	switch {
	case said == "" && c.process.late.Load():
		return c.failed("it did not shake hands within %v", c.starting())
	case said == "" && ended:
		return c.failed("it ended before it shook hands: %s", c.process.how())
	case !strings.HasPrefix(said, "1|"):
		return c.failed("it printed %q on stdout, where the handshake belongs", said)
	}
	reason, _, _ := strings.Cut(err.Error(), "\n")
	return c.failed("it did not shake hands: %s", reason).
		WithHint("build the backend with the version of core/backup/plugin that this program has")
}
