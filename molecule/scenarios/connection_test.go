//go:build lab

package scenarios

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// socketDir holds the sockets of the shared connections. A Unix socket's path holds 107 bytes, so it is not below the
// repository.
var socketDir = filepath.Join(os.TempDir(), fmt.Sprintf("rewind-scenarios.%d", os.Getpid()))

// sshArgs are the arguments of ssh up to the host. A connection is shared, because setting one up costs seconds of
// arithmetic in an emulated guest; if there is none, ssh makes its own.
func (g guest) sshArgs(more ...string) []string {
	args := []string{"-F", filepath.Join(root, "build/lab", g.name, "ssh_config"), "-o", "ControlPath=" + g.socket()}
	return append(append(args, more...), "lab")
}

func (g guest) socket() string { return filepath.Join(socketDir, g.name) }

// connect sets up the shared connection anew. It ends with the guest, or with disconnect.
func (g guest) connect() error {
	g.disconnect()
	if err := os.MkdirAll(socketDir, 0o700); err != nil {
		return err
	}
	// -f: ssh goes to the background as soon as the connection stands. It is given no pipe, which it would keep open.
	return exec.Command("ssh", g.sshArgs("-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-fN")...).Run()
}

func (g guest) disconnect() {
	if _, err := os.Stat(g.socket()); err == nil {
		_ = exec.Command("ssh", g.sshArgs("-O", "exit")...).Run()
	}
	_ = os.RemoveAll(socketDir)
}
