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
	// SocketDir is an existing directory below /run, mode 0700, for the sockets. Its path may have at most 60 bytes,
	// because the path of a socket may have at most 107 (unix(7)).
	SocketDir string

	// Stall is how long a backend may be silent: before the handshake (where the limit is never more than two minutes),
	// and between two messages while it stores or prepares to present. For the methods that report no progress the limit
	// is five times as long. 0 means two minutes.
	Stall time.Duration

	// Log receives what the backend prints, line by line. If it is nil, these lines are dropped.
	Log func(line string)
}

// Start starts the program and waits for its handshake. If ctx ends meanwhile, Start ends the program. The process
// inherits the mount namespace of the calling thread. It leads a session of its own and has /dev/null as stdin. Its
// environment has only LC_ALL, PATH, HOME, TMPDIR, GODEBUG and the variables of the handshake.
//
// The caller closes the Client. Faults: backend_untrusted if the SHA-256 of the program is not SHA256; backend_failed
// if there is no handshake; internal.
func (h Host) Start(ctx context.Context, p Program) (*Client, error) {
	if err := p.verify(); err != nil {
		return nil, err
	}
	home, err := os.MkdirTemp(h.SocketDir, "backend-")
	if err != nil {
		return nil, fault.New(fault.Internal, "directory for the sockets of backend %s: %w", p.Name, err)
	}
	c := &Client{program: p, tempDir: home, stall: h.stall(), output: &outputLog{log: h.Log}}
	if err := c.connect(ctx); err != nil {
		return nil, fault.All(c.connectFault(ctx, err), c.Close())
	}
	return c, nil
}

func (h Host) stall() time.Duration {
	if h.Stall <= 0 {
		return defaultStall
	}
	return h.Stall
}

// startLimit is how long the backend may take until the handshake is done.
func (c *Client) startLimit() time.Duration { return min(c.stall, maxStart) }

// connect starts the process and opens the connection. go-plugin waits in several places for a process that neither
// speaks nor ends, in some of them without a limit. So connect kills the process after startLimit, which ends every
// such wait.
func (c *Client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.startLimit())
	defer cancel()
	c.plugin = plugin.NewClient(c.config(ctx))
	protocol, err := c.plugin.Client()
	if err != nil {
		return err
	}
	conn, err := protocol.Dispense(pluginName)
	if err != nil {
		return err
	}
	c.conn = conn.(*grpc.ClientConn)
	if err := protocol.Ping(); err != nil {
		return err
	}
	if !c.process.stopStartTimer() {
		return ctx.Err()
	}
	return nil
}

func (c *Client) config(startCtx context.Context) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugin.PluginSet{pluginName: grpcPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     2 * c.stall, // startCtx ends before that
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: c.tempDir},
		Stderr:           &lineWriter{log: c.output},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			c.process = newProcess(startCtx, c.program, c.tempDir, cmd.Env)
			return c.process, nil
		},
	}
}

// connectFault kills the process, and returns the fault that says why there is no connection.
func (c *Client) connectFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault.Of(fmt.Errorf("start backend %s: %w", c.program.Name, context.Cause(ctx)))
	}
	if !c.process.wasStarted() {
		return c.failure("it cannot be started: %w", err)
	}
	c.process.kill()
	ended := c.hasEnded() // also waits until all output has been read
	line := c.process.stdout.firstLine()
	switch {
	case line == "" && c.process.timedOut.Load():
		return c.failure("it did not shake hands within %v", c.startLimit())
	case line == "" && ended:
		return c.failure("it ended before it shook hands: %s", c.process.exitStatus())
	case !strings.HasPrefix(line, "1|"):
		return c.failure("it printed %q on stdout, where the handshake belongs", line)
	}
	reason, _, _ := strings.Cut(err.Error(), "\n")
	return c.failure("it did not shake hands: %s", reason).
		WithHint("build the backend with the version of core/backup/plugin that this program has")
}
