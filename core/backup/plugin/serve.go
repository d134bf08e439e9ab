package plugin

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// Serve is all that the main of a backend does: it answers the host that started the program until the host is gone or
// asks it to end with SIGTERM, cancels the calls that still run, waits for them, and returns the exit code. It takes
// stdout for the handshake; what the program prints later, on stdout or stderr, goes to the host's log.
func Serve(b backup.Backend) int {
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		fmt.Fprintln(os.Stderr, "This is a backend of Rewind. It is not started by hand: put it into "+Dir+
			" and name it to snap_backup with backend=NAME.")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &service{backend: b, ctx: ctx, stderr: os.Stderr}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         plugin.PluginSet{name: glue{service: s}},
		Logger:          hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr}),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			server := grpc.NewServer(append(options,
				grpc.MaxRecvMsgSize(maxMessage), grpc.StatsHandler(hangup{stop: stop}))...)
			context.AfterFunc(ctx, server.Stop)
			return server
		},
	})
	stop()
	return s.wait()
}

// service answers calls with a backend.
type service struct {
	backend backup.Backend
	ctx     context.Context // of the whole process
	stderr  *os.File        // that of the process
	printed sync.Once
	calls   sync.WaitGroup
}

// wait waits for the calls that were cancelled, so that they can put away what they had begun. A backend that does not
// is ended by its host, or with the unit that the host ran in.
func (s *service) wait() int {
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return 0
	case <-time.After(endLimit):
		return 1
	}
}

func (s *service) desc() *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for method, run := range methods {
		stream := streamOf(method)
		stream.Handler = func(_ any, stream grpc.ServerStream) error { return s.answer(stream, run) }
		desc.Streams = append(desc.Streams, stream)
	}
	return desc
}

// method runs one method of the contract.
type method func(ctx context.Context, b backup.Backend, r request, c *conversation) (result, error)

var methods = map[string]method{
	describe: func(ctx context.Context, b backup.Backend, r request, _ *conversation) (result, error) {
		d, err := b.Describe(ctx, r.Config)
		return result{Description: &d}, err
	},
	store: func(ctx context.Context, b backup.Backend, r request, c *conversation) (result, error) {
		stored, err := b.Store(ctx, r.Config, r.Tree, c.report)
		return result{Stored: &stored}, err
	},
	list: func(ctx context.Context, b backup.Backend, r request, c *conversation) (result, error) {
		all, err := b.List(ctx, r.Config, r.Host)
		return result{}, c.list(all, err)
	},
	check: func(ctx context.Context, b backup.Backend, r request, _ *conversation) (result, error) {
		warnings, err := b.Check(ctx, r.Config)
		return result{Warnings: warnings}, err
	},
	present: func(ctx context.Context, b backup.Backend, r request, c *conversation) (result, error) {
		return result{}, b.Present(ctx, r.Config, r.ID, c.report, c.present)
	},
	forget: func(ctx context.Context, b backup.Backend, r request, _ *conversation) (result, error) {
		return result{}, b.Forget(ctx, r.Config, r.ID)
	},
	settle: func(ctx context.Context, b backup.Backend, r request, _ *conversation) (result, error) {
		return result{}, b.Settle(ctx, r.Config)
	},
}

// answer takes one call from its request to its last answer.
func (s *service) answer(stream grpc.ServerStream, run method) error {
	s.printed.Do(s.print)
	s.calls.Add(1)
	defer s.calls.Done()
	var r request
	if err := stream.RecvMsg(&r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	c := converse(ctx, cancel, stream)
	go c.listen(cancel)
	res, err := guarded(func() (result, error) { return run(ctx, s.backend, r, c) })
	if err := c.finish(); err != nil {
		return err
	}
	return stream.SendMsg(lastAnswer(res, err))
}

// print lets everything that is printed go to stderr. go-plugin has put pipes in the place of os.Stdout and os.Stderr,
// which it sends over the connection: what a backend says before it dies would be lost there.
func (s *service) print() { os.Stdout, os.Stderr = s.stderr, s.stderr }

// guarded makes a panic a fault: the message of a crash would be the end of a stack, which says nothing.
func guarded(run func() (result, error)) (res result, err error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "%s", debug.Stack())
			err = fault.New(fault.BackendFailed, "the backend panicked: %v", p)
		}
	}()
	return run()
}

func lastAnswer(res result, err error) answer {
	f := fault.Of(err)
	if f == nil {
		return answer{Result: &res}
	}
	if f.Code == fault.SourceUnreadable || f.Code == fault.SourceVanished {
		return answer{Result: &res, Fault: f}
	}
	return answer{Fault: f}
}

// conversation is the messages of one call. Only its own goroutine sends while the method runs, because a stream takes
// one message at a time.
type conversation struct {
	ctx      context.Context // of the call
	stream   grpc.ServerStream
	latest   *slot
	queue    chan answer // what must not be left out
	released chan struct{}
	done     chan struct{} // the method has returned
	sent     chan error    // how the sending ended
}

func converse(ctx context.Context, cancel context.CancelFunc, stream grpc.ServerStream) *conversation {
	c := &conversation{
		ctx: ctx, stream: stream, latest: newSlot(), queue: make(chan answer),
		released: make(chan struct{}), done: make(chan struct{}), sent: make(chan error, 1),
	}
	go func() {
		err := c.send()
		if err != nil {
			cancel() // nobody hears the method any more
		}
		c.sent <- err
	}()
	return c
}

// report takes progress and never blocks: what cannot be sent yet is replaced by what comes next.
func (c *conversation) report(p backup.Progress) { c.latest.put(p) }

// send sends until the method has returned.
func (c *conversation) send() error {
	progress := c.latest.filled
	var again <-chan time.Time
	for {
		select {
		case a := <-c.queue:
			if err := c.stream.SendMsg(a); err != nil {
				return err
			}
		case <-progress:
			if err := c.flush(); err != nil {
				return err
			}
			progress, again = nil, time.After(pace)
		case <-again:
			progress = c.latest.filled
		case <-c.done:
			return c.flush()
		}
	}
}

func (c *conversation) flush() error {
	p, ok := c.latest.take()
	if !ok {
		return nil
	}
	return c.stream.SendMsg(answer{Progress: &p})
}

// finish ends the sending, so that the last answer can be sent.
func (c *conversation) finish() error {
	close(c.done)
	return <-c.sent
}

// say sends a message that must not be left out.
func (c *conversation) say(a answer) error {
	select {
	case c.queue <- a:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *conversation) list(all []backup.Stored, err error) error {
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := c.say(answer{Listed: &one}); err != nil {
			return err
		}
	}
	return nil
}

// present is the use that the backend's Present is given: it lasts until the host releases what was presented.
func (c *conversation) present(ctx context.Context, p backup.Presented) error {
	if err := c.say(answer{Presented: &p}); err != nil {
		return err
	}
	select {
	case <-c.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listen follows the host's orders until the stream ends.
func (c *conversation) listen(cancel context.CancelFunc) {
	defer cancel()
	var once sync.Once
	for {
		var o order
		if err := c.stream.RecvMsg(&o); err != nil {
			return
		}
		if o.Cancel {
			cancel()
		}
		if o.Release {
			once.Do(func() { close(c.released) })
		}
	}
}

// hangup ends the backend when its host is gone. There is one host and one connection; others do not get past the
// certificate, and are no connection to gRPC.
type hangup struct{ stop func() }

func (h hangup) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended {
		h.stop()
	}
}

func (hangup) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (hangup) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (hangup) HandleRPC(context.Context, stats.RPCStats)                         {}
