// Package plugin runs a backend as a process of its own, which may crash, hang, lie or be killed without harm to the
// program that asked: every call ends, with an answer or with a fault that says what the process did.
//
// A backend's main is Serve. The other side is Find, Host.Start and the Client, which is a backup.Backend again. Between
// them is hashicorp/go-plugin: the handshake on stdout, mutual TLS over a Unix socket, gRPC. The messages are the
// contract's own types as JSON (wire.go), so that there is no second, generated set of types.
package plugin

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// Dir is where backends that are not built in lie, each under the name that the user gives as backend.
const Dir = "/usr/local/lib/rewind/backends"

// Program is a backend's program.
type Program struct {
	Name   string   // for people
	Argv   []string // the absolute path of the program, and its arguments
	SHA256 string   // of the program, in hexadecimal digits; empty: not checked
}

// handshake tells a host and a backend that they belong together. The version rises with every change of the wire that
// an older side would not understand; the cookie is no secret, it keeps people from starting a backend by hand.
var handshake = plugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "REWIND_BACKEND",
	MagicCookieValue: hex.EncodeToString([]byte("snap_backup")),
}

// name is the only kind of plugin there is.
const name = "backend"

const (
	defaultStall = 2 * time.Minute // for a Host that names none
	startLimit   = 2 * time.Minute // until it has shaken hands, whatever its Host's Stall is
	endLimit     = 5 * time.Second // wait for a backend that was asked to end
	pace         = time.Second     // between two reports of progress
	maxMessage   = 1 << 20         // bytes of one message
)

// glue ties the two sides to go-plugin.
type glue struct {
	plugin.NetRPCUnsupportedPlugin
	service *service // nil in the host
}

func (g glue) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(g.service.desc(), g.service)
	return nil
}

func (g glue) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
