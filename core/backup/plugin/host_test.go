package plugin

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
)

// Nothing of the host's environment or stdin reaches a backend.
func TestEnvironmentAndStdinAreNotInherited(t *testing.T) {
	const canary = "canary-6b1f"
	t.Setenv("REWIND_CANARY", canary)
	t.Setenv("PATH", os.Getenv("PATH")+":/"+canary)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	defer func(stdin *os.File) { os.Stdin = stdin }(os.Stdin)
	os.Stdin = in

	c := start(t, "well")
	proc := filepath.Join("/proc", c.process.ID())
	environment, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(environment), canary) {
		t.Errorf("the environment is %q", environment)
	}
	allowed := []string{"LC_ALL", "PATH", "HOME", "TMPDIR", "GODEBUG", handshake.MagicCookieKey,
		"PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT", "PLUGIN_UNIX_SOCKET_DIR"}
	for _, variable := range strings.Split(strings.TrimSuffix(string(environment), "\x00"), "\x00") {
		key, value, _ := strings.Cut(variable, "=")
		if !slices.Contains(allowed, key) || key == "PATH" && value != command.Path ||
			key == "GODEBUG" && variable != command.Unsignalled {
			t.Errorf("it is given %q", variable)
		}
	}
	if stdin, err := os.Readlink(filepath.Join(proc, "fd/0")); err != nil || stdin != "/dev/null" {
		t.Errorf("its stdin is %q (%v)", stdin, err)
	}
}

// Only the host that started a backend can talk to it. Attempts of others do the backend no harm.
func TestOtherClientsAreRefused(t *testing.T) {
	t.Parallel()
	c := start(t, "well")
	sockets, err := filepath.Glob(filepath.Join(c.tempDir, "*", "*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets: %v %v", sockets, err)
	}
	if info, err := os.Stat(c.tempDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the sockets' directory: %v %v", info.Mode(), err)
	}
	for name, connect := range map[string]func(net.Conn) net.Conn{
		"plain": func(conn net.Conn) net.Conn { return conn },
		"without a certificate": func(conn net.Conn) net.Conn {
			return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		},
	} {
		conn, err := net.Dial("unix", sockets[0])
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(timeout))
		client := connect(conn)
		const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" // of HTTP/2
		_, _ = client.Write([]byte(preface))
		answer := make([]byte, 100)
		n, err := client.Read(answer)
		// A frame of HTTP/2 has its length in the first three bytes, its type in the fourth: 4 is SETTINGS.
		if err == nil && n > 3 && answer[3] == 4 {
			t.Errorf("a stranger %s is answered: %q", name, answer[:n])
		}
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Errorf("a stranger %s is not refused", name)
		}
		conn.Close()
	}
	if _, err := c.Describe(t.Context(), backup.Config{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A backend that is started in a private mount namespace sees what is mounted there. What it presents is readable from
// outside.
func TestStartInPrivateMountNamespace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var c *Client
	err := filesystem.InPrivateNamespace(func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "inside"), []byte("seen"), 0o600); err != nil {
			return err
		}
		c = start(t, "well")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "inside")) {
		t.Fatal("the mount is seen outside, which proves nothing")
	}
	use := func(_ context.Context, p backup.Presented) error {
		data, err := os.ReadFile(filepath.Join(p.Roots["/dat"], "inside"))
		if err != nil || string(data) != "seen" {
			t.Errorf("presented at %s: %q %v", p.Roots["/dat"], data, err)
		}
		return nil
	}
	if err := c.Present(t.Context(), backup.Config{Scratch: dir}, "id", nil, use); err != nil {
		t.Error(err)
	}
}
