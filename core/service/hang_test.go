package service

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/bus"
)

// A systemd that does not answer gives another fault than a systemd that is not there.
func TestDialTimesOutIfSystemdDoesNotAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = bus.Dial(ctx, path)
	if f := fault.Of(busFault(t.Context(), err, "connect to systemd")); f.Code != fault.Timeout || f.Hint == "" {
		t.Errorf("%v: %s (%s)", err, f.Code, f.Hint)
	}
}
