package service

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/dbus"
)

// While a systemd that has executed itself again accepts us and says nothing, nobody waits longer than they said, and
// nobody waits for those who do.
func TestNobodyWaitsForAnothersReconnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	first := make(chan net.Conn)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = bufio.NewReader(conn).ReadString('\n')
		_, _ = conn.Write([]byte("OK 1234\r\n"))
		first <- conn
	}() // whoever comes second is let in by the kernel, and hears nothing
	w, err := dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	(<-first).Close()
	<-w.conn.Lost()

	patient, stop := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() {
		_, err := w.unit(patient, "a.service")
		waiting <- err
	}()
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		begun = w.again != nil
		w.mu.Unlock()
	}
	brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.unit(brief, "b.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second caller: %v", err)
	}
	w.hear(dbus.Signal{Path: unitPath("a.service"), Member: "PropertiesChanged"}) // must not wait either
	stop()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the first caller: %v", err)
	}
	w.close()
}

// A systemd that does not answer at all is told from one that is not there.
func TestConnectHasALimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = dial(ctx, path)
	if f := fault.Of(busFault(t.Context(), err, "connect to systemd")); f.Code != fault.Timeout || f.Hint == "" {
		t.Errorf("%v: %s (%s)", err, f.Code, f.Hint)
	}
}
