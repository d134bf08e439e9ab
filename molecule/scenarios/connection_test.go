//go:build lab

package scenarios

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// socketDir is the directory of the sockets of the shared ssh connections. The path of a Unix socket has at most 107
// bytes, so the directory is not below the repository's.
var socketDir = filepath.Join(os.TempDir(), fmt.Sprintf("rewind-scenarios.%d", os.Getpid()))

// sshArgs returns the arguments of ssh up to the host. All calls share one connection, because an emulated guest takes
// seconds for the arithmetic of a new one. If there is no shared connection, ssh makes one of its own.
func (g guest) sshArgs(more ...string) []string {
	args := []string{"-F", filepath.Join(root, "build/lab", g.name, "ssh_config"), "-o", "ControlPath=" + g.socket()}
	return append(append(args, more...), "lab")
}

// socket is the path of the socket of the shared connection.
func (g guest) socket() string { return filepath.Join(socketDir, g.name) }

// connect makes the shared connection, in place of an earlier one. It ends when the guest ends or at disconnect.
func (g guest) connect() error {
	g.disconnect()
	if err := os.MkdirAll(socketDir, 0o700); err != nil {
		return err
	}
	// With -f ssh goes to the background as soon as it has connected. It gets no pipe, because it would keep that open.
	return exec.Command("ssh", g.sshArgs("-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-fN")...).Run()
}

// disconnect ends the shared connection, if there is one.
func (g guest) disconnect() {
	if _, err := os.Stat(g.socket()); err == nil {
		_ = exec.Command("ssh", g.sshArgs("-O", "exit")...).Run()
	}
	_ = os.RemoveAll(socketDir)
}
