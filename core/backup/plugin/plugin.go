// Package plugin runs a backend as a process of its own. The process may crash, hang, return wrong results or be killed
// without harm to the program that uses the backend: every call ends, with an answer or with a fault that says what the
// process did.
//
// The main function of a backend calls Serve. The other side, the host, uses Find, Host.Start and the Client, which is
// a backup.Backend. The two sides talk by means of hashicorp/go-plugin: a handshake on stdout, and gRPC with mutual TLS
// over a Unix socket. The messages are the contract's own types as JSON (wire.go), so that there is no second,
// generated set of types.
package plugin

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// Dir is the directory of the backends that are not built in. The name of each file is what the user gives as backend=.
const Dir = "/usr/local/lib/rewind/backends"

// Program is a backend's program.
type Program struct {
	Name   string   // for people
	Argv   []string // the absolute path of the program, and its arguments
	SHA256 string   // of the program, in hexadecimal digits; if it is empty, the program is not checked
}

// handshake tells a host and a backend that they can talk to each other. The version rises with every change of the
// messages that an older side would not understand. The cookie is not a secret; it lets a backend refuse to be started
// by hand.
var handshake = plugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "REWIND_BACKEND",
	MagicCookieValue: hex.EncodeToString([]byte("snap_backup")),
}

// pluginName is go-plugin's name for the only kind of plugin that there is.
const pluginName = "backend"

const (
	defaultStall   = 2 * time.Minute // if Host.Stall is not set
	maxStart       = 2 * time.Minute // until the handshake is done, however large Host.Stall is
	endTimeout     = 5 * time.Second // until a backend that was asked to end is killed
	reportInterval = time.Second     // between two reports of progress
	maxMessage     = 1 << 20         // bytes of one message
)

// grpcPlugin connects the service and the Client with go-plugin.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	service *service // nil in the host
}

func (g grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(g.service.desc(), g.service)
	return nil
}

func (g grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
