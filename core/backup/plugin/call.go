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

const (
	patience    = 5                // times the stall limit, for methods that report nothing
	cancelLimit = 30 * time.Second // at most, from a cancel to the end of a call
	maxListed   = 100000           // backups of one List
)

// errMisplaced is a message that has no place in its call.
var errMisplaced = errors.New("it sent what does not belong there")

// ear is who hears what a call says before it ends. What it does not ask for may not be said.
type ear struct {
	report backup.Report
	listed *[]backup.Stored
	use    func(context.Context, backup.Presented) error
	limit  time.Duration // of silence
}

// call is one call as the host sees it.
type call struct {
	*Client
	ctx    context.Context // the caller's
	method string
	ear    ear

	orders   chan order
	progress *slot
	answers  chan answer   // others than progress, until the last
	over     chan struct{} // closed when last or lost is known
	last     answer
	lost     error // why there is no last answer

	said string // the label of its last progress

	used, released bool
	outcome        error // of use
}

// call calls a method and returns its result when the backend has ended it; beside a fault there may be a result.
func (c *Client) call(ctx context.Context, method string, r request, e ear) (result, error) {
	if ctx.Err() != nil {
		return result{}, c.cancelled(ctx)
	}
	// The stream does not end with ctx: the backend is asked to end, and heard.
	wire, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	x := &call{
		Client: c, ctx: ctx, method: method, ear: e,
		orders: make(chan order, 2), progress: newSlot(), answers: make(chan answer), over: make(chan struct{}),
	}
	go x.receive(wire, r)
	if err := x.attend(); err != nil {
		return result{}, err
	}
	return x.result()
}

// receive takes answers as fast as they come, so that nothing queues anywhere.
func (x *call) receive(wire context.Context, r request) {
	defer close(x.over)
	desc := streamOf(x.method)
	stream, err := x.conn.NewStream(wire, &desc, "/"+serviceName+"/"+x.method, grpc.CallContentSubtype(subtype))
	if err != nil {
		x.lost = err
		return
	}
	go x.send(wire, stream, r)
	presented := false
	for !x.last.last() && x.lost == nil {
		var a answer
		switch err := stream.RecvMsg(&a); {
		case err != nil:
			x.lost = err
		case a.last():
			x.last = a
		case a.Progress != nil:
			x.progress.put(*a.Progress)
		case presented: // nobody takes it while the backup is in use
			x.lost = errMisplaced
		default:
			presented = a.Presented != nil
			x.hand(wire, a)
		}
	}
}

func (x *call) hand(wire context.Context, a answer) {
	select {
	case x.answers <- a:
	case <-wire.Done():
		x.lost = wire.Err()
	}
}

// send sends the request and the orders. Where a message cannot be sent, receive learns why.
func (x *call) send(wire context.Context, stream grpc.ClientStream, r request) {
	err := stream.SendMsg(r)
	for err == nil {
		select {
		case o := <-x.orders:
			err = stream.SendMsg(o)
		case <-wire.Done():
			return
		}
	}
}

// attend follows a call until it is over. Its error is that of a backend that is not worth hearing out.
func (x *call) attend() error {
	silence := time.NewTimer(x.ear.limit)
	defer silence.Stop()
	progress, cancelled := x.progress.filled, x.ctx.Done()
	var again <-chan time.Time
	for {
		select {
		case <-x.over:
			x.report()
			return nil
		case <-progress:
			x.report()
			progress, again = nil, time.After(pace)
		case <-again:
			progress, again = x.progress.filled, nil
			continue
		case a := <-x.answers:
			if err := x.hear(a); err != nil {
				return err
			}
		case <-cancelled:
			x.orders <- order{Cancel: true}
			cancelled = nil
			silence.Reset(min(x.stall, cancelLimit))
		case <-silence.C:
			return x.silent()
		}
		if cancelled != nil {
			silence.Reset(x.ear.limit) // nothing that it says lengthens the end
		}
	}
}

func (x *call) report() {
	p, ok := x.progress.take()
	if !ok {
		return
	}
	x.said = p.Label
	if x.ear.report != nil {
		x.ear.report(p)
	}
}

func (x *call) hear(a answer) error {
	switch {
	case a.Listed != nil && x.ear.listed != nil && len(*x.ear.listed) < maxListed:
		*x.ear.listed = append(*x.ear.listed, *a.Listed)
		return nil
	case a.Listed != nil && x.ear.listed != nil:
		return x.failed("%s returned more than %d backups", x.method, maxListed)
	case a.Presented != nil && x.ear.use != nil:
		return x.use(*a.Presented)
	}
	return x.failed("%s: %w", x.method, errMisplaced)
}

// use uses what is presented on the caller's goroutine, and only as long as the backend keeps it up.
func (x *call) use(p backup.Presented) error {
	seen, err := x.presented(p)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(x.ctx)
	defer stop(nil)
	go func() {
		select {
		case <-x.over:
			stop(errors.New("the backend has ended"))
		case <-ctx.Done():
		}
	}()
	x.used = true
	x.outcome = x.ear.use(ctx, seen)
	select {
	case <-x.over:
	default:
		x.released = true
		x.orders <- order{Release: true}
	}
	return nil
}

// result tells how a call ended that is over.
func (x *call) result() (result, error) {
	var res result
	if x.last.Result != nil {
		res = *x.last.Result
	}
	switch f := x.last.Fault; {
	case x.released && x.outcome != nil:
		return result{}, x.outcome
	case x.lost != nil:
		return result{}, x.gone()
	case f != nil:
		return res, x.says(f)
	case x.ear.use != nil && !x.used:
		return result{}, x.failed("%s ended without presenting anything", x.method)
	case x.used && !x.released:
		return result{}, x.failed("%s ended while what it presented was in use", x.method)
	}
	return res, nil
}

// says checks a fault of the backend, and gives the end of a context back its cause, which does not cross the wire.
func (x *call) says(f *fault.Error) error {
	if f.Code == "" || f.Msg == "" {
		return x.failed("%s ended with a fault that says nothing", x.method)
	}
	if f.Code == fault.BackendFailed {
		f.With("backend", x.program.Name).With("stderr", x.words.last())
		if f.Hint == "" {
			f.WithHint(again)
		}
	}
	if x.ctx.Err() != nil && (f.Code == fault.Interrupted || f.Code == fault.Timeout) {
		f.Err = context.Cause(x.ctx)
	}
	return f
}

func (x *call) silent() error {
	if x.ctx.Err() != nil {
		return x.failed("it did not end %s within %v of being asked to: %w", x.method, min(x.stall, cancelLimit), context.Cause(x.ctx))
	}
	doing := ""
	if x.said != "" {
		doing = ", after " + quoted(x.said)
	}
	return x.failed("it said nothing for %v in %s%s", x.ear.limit, x.method, doing).
		WithHint("its last words are in the facts; see what it waits for before you run this again")
}

// gone says what became of a backend that ended a call without its last answer.
func (x *call) gone() error {
	if x.ctx.Err() != nil {
		return x.cancelled(x.ctx)
	}
	s := status.Convert(x.lost)
	switch {
	case errors.Is(x.lost, errMisplaced):
		return x.failed("%s: %w", x.method, errMisplaced)
	case errors.Is(x.lost, io.EOF):
		return x.failed("it ended %s without a result", x.method)
	case s.Code() == codes.ResourceExhausted:
		return x.failed("it sent a message larger than %d bytes in %s", maxMessage, x.method)
	case s.Code() == codes.Unavailable && x.ended():
		return x.failed("it ended in the middle of %s: %s", x.method, x.process.how())
	}
	return x.failed("%s broke off: %s", x.method, s.Message())
}

func (c *Client) cancelled(ctx context.Context) error {
	return fault.Of(fmt.Errorf("backend %s: %w", c.program.Name, context.Cause(ctx)))
}
