package bus

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/service/dbus"
)

// After systemd has executed itself again, it may accept a connection and not answer. Then no caller waits longer than
// its own limit, and none waits for the limit of another caller.
func TestReconnectWaitsNoLongerThanEachCallersContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = conn.Write([]byte("OK 1234\r\n"))
		accepted <- conn
	}() // the kernel accepts the second connection, and nothing answers on it
	b, err := dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	(<-accepted).Close()
	<-b.conn.Lost()

	patient, stop := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := b.UnitProperties(patient, "a.service")
		waiting <- err
	}()
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		begun = b.reconnecting != nil
		b.mu.Unlock()
	}
	brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.UnitProperties(brief, "b.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second caller: %v", err)
	}
	b.handleSignal(dbus.Signal{Path: unitPath("a.service"), Member: "PropertiesChanged"}) // must not wait either
	stop()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller: %v", err)
	}
	b.Close()
}
