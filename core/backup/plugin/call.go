package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// QuietFactor says for how many times the stall limit a method that reports no progress may be silent.
const QuietFactor = 5

const (
	cancelLimit = 30 * time.Second // the longest time from the cancelling of a call to its end
	maxListed   = 100000           // backups that one List may return
)

// errUnexpected means that the backend sent a message which this method must not send, or not at this time.
var errUnexpected = errors.New("it sent what does not belong there")

// listener takes the answers of a call before the last one. A field that is nil means that the backend must not send
// such an answer; only progress is then ignored.
type listener struct {
	report     backup.Report
	list       *[]backup.Stored
	use        func(context.Context, backup.Presented) error
	maxSilence time.Duration // how long the backend may send nothing
}

// call is one call as the host sees it.
type call struct {
	*Client
	ctx      context.Context // the caller's
	method   string
	listener listener

	orders   chan order
	progress *latestProgress
	answers  chan answer   // all answers but progress and the last one
	done     chan struct{} // closed when last or streamErr is set

	last      answer
	streamErr error // why there is no last answer

	lastLabel string // of the last progress

	used     bool  // listener.use was called
	released bool  // the call had not ended when listener.use returned
	useErr   error // what listener.use returned
}

// call calls a method and returns its result after the backend has sent its last answer. It may return both a result
// and a fault.
func (c *Client) call(ctx context.Context, method string, r request, l listener) (result, error) {
	if ctx.Err() != nil {
		return result{}, c.cancelledFault(ctx)
	}
	// The stream does not end with ctx: when ctx ends, the backend is asked to end the call, and may still answer.
	streamCtx, cancelStream := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelStream()
	x := &call{
		Client: c, ctx: ctx, method: method, listener: l,
		orders: make(chan order, 2), progress: newLatestProgress(), answers: make(chan answer), done: make(chan struct{}),
	}
	go x.receive(streamCtx, r)
	if err := x.follow(); err != nil {
		return result{}, err
	}
	return x.result()
}

// receive takes the answers as fast as they arrive, so that none queue up.
func (x *call) receive(streamCtx context.Context, r request) {
	defer close(x.done)
	desc := streamDesc(x.method)
	stream, err := x.conn.NewStream(streamCtx, &desc, "/"+serviceName+"/"+x.method, grpc.CallContentSubtype(subtype))
	if err != nil {
		x.streamErr = err
		return
	}
	go x.sendOrders(streamCtx, stream, r)
	presented := false
	for !x.last.last() && x.streamErr == nil {
		var a answer
		switch err := stream.RecvMsg(&a); {
		case err != nil:
			x.streamErr = err
		case a.last():
			x.last = a
		case a.Progress != nil:
			x.progress.set(*a.Progress)
		case presented: // after this, only progress and the last answer are allowed
			x.streamErr = errUnexpected
		default:
			presented = a.Presented != nil
			x.deliver(streamCtx, a)
		}
	}
}

func (x *call) deliver(streamCtx context.Context, a answer) {
	select {
	case x.answers <- a:
	case <-streamCtx.Done():
		x.streamErr = streamCtx.Err()
	}
}

// sendOrders sends the request and then the orders. If a message cannot be sent, receive gets the reason from the
// stream.
func (x *call) sendOrders(streamCtx context.Context, stream grpc.ClientStream, r request) {
	err := stream.SendMsg(r)
	for err == nil {
		select {
		case o := <-x.orders:
			err = stream.SendMsg(o)
		case <-streamCtx.Done():
			return
		}
	}
}

// follow handles what happens until the call is done. It returns an error if the backend broke the contract or is
// silent; the call is then given up without waiting for its last answer.
func (x *call) follow() error {
	silence := time.NewTimer(x.listener.maxSilence)
	defer silence.Stop()
	progress, callerDone := x.progress.available, x.ctx.Done()
	var progressTimer <-chan time.Time
	for {
		select {
		case <-x.done:
			x.report()
			return nil
		case <-progress:
			x.report()
			progress, progressTimer = nil, time.After(reportInterval)
		case <-progressTimer:
			progress, progressTimer = x.progress.available, nil
			continue
		case a := <-x.answers:
			if err := x.handle(a); err != nil {
				return err
			}
		case <-callerDone:
			x.orders <- order{Cancel: true}
			callerDone = nil
			silence.Reset(min(x.stall, cancelLimit))
		case <-silence.C:
			return x.silenceFault()
		}
		if callerDone != nil {
			silence.Reset(x.listener.maxSilence) // not after a cancel: answers must not extend cancelLimit
		}
	}
}

// report passes the latest progress to the caller.
func (x *call) report() {
	p, ok := x.progress.take()
	if !ok {
		return
	}
	x.lastLabel = p.Label
	if x.listener.report != nil {
		x.listener.report(p)
	}
}

// handle handles an answer that is neither progress nor the last one.
func (x *call) handle(a answer) error {
	switch {
	case a.Listed != nil && x.listener.list != nil && len(*x.listener.list) < maxListed:
		*x.listener.list = append(*x.listener.list, *a.Listed)
		return nil
	case a.Listed != nil && x.listener.list != nil:
		return x.failure("%s returned more than %d backups", x.method, maxListed)
	case a.Presented != nil && x.listener.use != nil:
		return x.use(*a.Presented)
	}
	return x.failure("%s: %w", x.method, errUnexpected)
}

// use calls the caller's use on the caller's goroutine, with a context that ends when the backend ends the call.
func (x *call) use(p backup.Presented) error {
	readable, err := x.checkPresented(p)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(x.ctx)
	defer stop(nil)
	go func() {
		select {
		case <-x.done:
			stop(errors.New("the backend has ended"))
		case <-ctx.Done():
		}
	}()
	x.used = true
	x.useErr = x.listener.use(ctx, readable)
	select {
	case <-x.done:
	default:
		x.released = true
		x.orders <- order{Release: true}
	}
	return nil
}

// result returns how the call ended. It must be done.
func (x *call) result() (result, error) {
	var res result
	if x.last.Result != nil {
		res = *x.last.Result
	}
	switch f := x.last.Fault; {
	case x.released && x.useErr != nil:
		return result{}, x.useErr
	case x.streamErr != nil:
		return result{}, x.streamFault()
	case f != nil:
		return res, x.checkFault(f)
	case x.listener.use != nil && !x.used:
		return result{}, x.failure("%s ended without presenting anything", x.method)
	case x.used && !x.released:
		return result{}, x.failure("%s ended while what it presented was in use", x.method)
	}
	return res, nil
}

// checkFault checks a fault that the backend returned. If the call ended because its context ended, checkFault adds the
// cause of that, which does not cross the wire.
func (x *call) checkFault(f *fault.Error) error {
	if f.Code == "" || f.Msg == "" {
		return x.failure("%s ended with a fault that says nothing", x.method)
	}
	if f.Code == fault.BackendFailed {
		f.With("backend", x.program.Name).With("stderr", x.output.tail())
		if f.Hint == "" {
			f.WithHint(retryHint)
		}
	}
	if x.ctx.Err() != nil && (f.Code == fault.Interrupted || f.Code == fault.Timeout) {
		f.Err = context.Cause(x.ctx)
	}
	return f
}

// silenceFault returns the fault of a backend that has been silent for too long.
func (x *call) silenceFault() error {
	if x.ctx.Err() != nil {
		return x.failure("it did not end %s within %v of being asked to: %w",
			x.method, min(x.stall, cancelLimit), context.Cause(x.ctx))
	}
	doing := ""
	if x.lastLabel != "" {
		doing = ", after " + quoteShort(x.lastLabel)
	}
	return x.failure("it said nothing for %v in %s%s", x.listener.maxSilence, x.method, doing).
		WithHint("its last words are in the facts; see what it waits for before you run this again")
}

// streamFault returns the fault of a call that ended without a last answer, and says what the backend did.
func (x *call) streamFault() error {
	if x.ctx.Err() != nil {
		return x.cancelledFault(x.ctx)
	}
	s := status.Convert(x.streamErr)
	switch {
	case errors.Is(x.streamErr, errUnexpected):
		return x.failure("%s: %w", x.method, errUnexpected)
	case errors.Is(x.streamErr, io.EOF):
		return x.failure("it ended %s without a result", x.method)
	case s.Code() == codes.ResourceExhausted:
		return x.failure("it sent a message larger than %d bytes in %s", maxMessage, x.method)
	case s.Code() == codes.Unavailable && x.hasEnded():
		return x.failure("it ended in the middle of %s: %s", x.method, x.process.exitStatus())
	}
	return x.failure("%s broke off: %s", x.method, s.Message())
}

// cancelledFault returns the fault of a call whose context has ended.
func (c *Client) cancelledFault(ctx context.Context) error {
	return fault.Of(fmt.Errorf("backend %s: %w", c.program.Name, context.Cause(ctx)))
}
