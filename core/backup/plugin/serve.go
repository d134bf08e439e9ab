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

// Serve is all that the main function of a backend has to call. It serves the host that started the program until the
// host has gone or sends SIGTERM. Then it cancels the calls that still run, waits for them for five seconds, and
// returns the exit code. Serve uses stdout for the handshake. What the program prints later, on stdout or stderr, goes
// to the host's log.
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
		Plugins:         plugin.PluginSet{pluginName: grpcPlugin{service: s}},
		Logger:          hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr}),
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			server := grpc.NewServer(append(options,
				grpc.MaxRecvMsgSize(maxMessage), grpc.StatsHandler(stopOnDisconnect{stop: stop}))...)
			context.AfterFunc(ctx, server.Stop)
			return server
		},
	})
	stop()
	return s.wait()
}

// service answers calls with a backend.
type service struct {
	backend  backup.Backend
	ctx      context.Context // of the whole process
	stderr   *os.File        // of the process
	redirect sync.Once
	calls    sync.WaitGroup
}

// wait waits until the cancelled calls have cleaned up what they had begun, for endTimeout at most, and returns the
// exit code. If a call does not end, the host kills the process, or systemd does when the host's unit ends.
func (s *service) wait() int {
	done := make(chan struct{})
	go func() {
		s.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return 0
	case <-time.After(endTimeout):
		return 1
	}
}

// desc describes the service to gRPC.
func (s *service) desc() *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for method, m := range methods {
		stream := streamDesc(method)
		stream.Handler = func(_ any, stream grpc.ServerStream) error { return s.serve(stream, m) }
		desc.Streams = append(desc.Streams, stream)
	}
	return desc
}

// method runs one method of the contract.
type method func(ctx context.Context, b backup.Backend, r request, c *serverCall) (result, error)

var methods = map[string]method{
	describe: func(ctx context.Context, b backup.Backend, r request, _ *serverCall) (result, error) {
		d, err := b.Describe(ctx, r.Config)
		return result{Description: &d}, err
	},
	store: func(ctx context.Context, b backup.Backend, r request, c *serverCall) (result, error) {
		stored, err := b.Store(ctx, r.Config, r.Tree, c.report)
		return result{Stored: &stored}, err
	},
	list: func(ctx context.Context, b backup.Backend, r request, c *serverCall) (result, error) {
		all, err := b.List(ctx, r.Config, r.Host)
		return result{}, c.list(all, err)
	},
	check: func(ctx context.Context, b backup.Backend, r request, _ *serverCall) (result, error) {
		warnings, err := b.Check(ctx, r.Config)
		return result{Warnings: warnings}, err
	},
	present: func(ctx context.Context, b backup.Backend, r request, c *serverCall) (result, error) {
		return result{}, b.Present(ctx, r.Config, r.ID, c.report, c.present)
	},
	forget: func(ctx context.Context, b backup.Backend, r request, _ *serverCall) (result, error) {
		return result{}, b.Forget(ctx, r.Config, r.ID)
	},
	settle: func(ctx context.Context, b backup.Backend, r request, _ *serverCall) (result, error) {
		return result{}, b.Settle(ctx, r.Config)
	},
}

// serve serves one call, from its request to its last answer.
func (s *service) serve(stream grpc.ServerStream, m method) error {
	s.redirect.Do(s.redirectOutput)
	s.calls.Add(1)
	defer s.calls.Done()
	var r request
	if err := stream.RecvMsg(&r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	c := newServerCall(ctx, cancel, stream)
	go c.receiveOrders(cancel)
	res, err := recoverPanic(func() (result, error) { return m(ctx, s.backend, r, c) })
	if err := c.finish(); err != nil {
		return err
	}
	return stream.SendMsg(lastAnswer(res, err))
}

// redirectOutput sends everything that the program prints to its stderr. go-plugin has replaced os.Stdout and os.Stderr
// by pipes whose content it sends over the connection. What a backend prints just before it dies would be lost there.
func (s *service) redirectOutput() { os.Stdout, os.Stderr = s.stderr, s.stderr }

// recoverPanic calls run and turns a panic into a fault. Without that, the host would only have the end of a stack
// trace, which does not name the cause.
func recoverPanic(run func() (result, error)) (res result, err error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "%s", debug.Stack())
			err = fault.New(fault.BackendFailed, "the backend panicked: %v", p)
		}
	}()
	return run()
}

// lastAnswer returns the last answer of a call that returned res and err.
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

// serverCall sends and receives the messages of one call. While the method runs, only the goroutine that newServerCall
// starts sends, because two goroutines must not send on a stream at the same time.
type serverCall struct {
	ctx        context.Context // of the call
	stream     grpc.ServerStream
	progress   *latestProgress
	queue      chan answer   // the answers that must not be left out
	released   chan struct{} // closed when the host no longer needs what was presented
	returned   chan struct{} // closed when the method has returned
	sendResult chan error    // gets the error of the sending goroutine, or nil
}

func newServerCall(ctx context.Context, cancel context.CancelFunc, stream grpc.ServerStream) *serverCall {
	c := &serverCall{
		ctx: ctx, stream: stream, progress: newLatestProgress(), queue: make(chan answer),
		released: make(chan struct{}), returned: make(chan struct{}), sendResult: make(chan error, 1),
	}
	go func() {
		err := c.send()
		if err != nil {
			cancel() // the host no longer gets the answers of the method
		}
		c.sendResult <- err
	}()
	return c
}

// report is the backup.Report for the method. It never blocks: progress that has not been sent yet is replaced.
func (c *serverCall) report(p backup.Progress) { c.progress.set(p) }

// send sends progress and queued answers until the method has returned.
func (c *serverCall) send() error {
	progress := c.progress.available
	var progressTimer <-chan time.Time
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
			progress, progressTimer = nil, time.After(reportInterval)
		case <-progressTimer:
			progress = c.progress.available
		case <-c.returned:
			return c.flush()
		}
	}
}

// flush sends the latest progress, if it has not been sent.
func (c *serverCall) flush() error {
	p, ok := c.progress.take()
	if !ok {
		return nil
	}
	return c.stream.SendMsg(answer{Progress: &p})
}

// finish ends the sending goroutine, so that the last answer can be sent.
func (c *serverCall) finish() error {
	close(c.returned)
	return <-c.sendResult
}

// enqueue has an answer sent that must not be left out.
func (c *serverCall) enqueue(a answer) error {
	select {
	case c.queue <- a:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// list sends what List returned, one answer for each backup.
func (c *serverCall) list(all []backup.Stored, err error) error {
	if err != nil {
		return err
	}
	for _, stored := range all {
		if err := c.enqueue(answer{Listed: &stored}); err != nil {
			return err
		}
	}
	return nil
}

// present is the function use that the backend's Present gets. It returns when the host no longer needs what was
// presented.
func (c *serverCall) present(ctx context.Context, p backup.Presented) error {
	if err := c.enqueue(answer{Presented: &p}); err != nil {
		return err
	}
	select {
	case <-c.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receiveOrders obeys the host's orders until the stream ends, and then cancels the call.
func (c *serverCall) receiveOrders(cancel context.CancelFunc) {
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

// stopOnDisconnect ends the backend when its host has gone. There is only one connection, that of the host. A
// connection of anybody else fails at the TLS handshake, so gRPC does not report it here.
type stopOnDisconnect struct{ stop func() }

func (h stopOnDisconnect) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended {
		h.stop()
	}
}

func (stopOnDisconnect) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (stopOnDisconnect) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (stopOnDisconnect) HandleRPC(context.Context, stats.RPCStats)                       {}
