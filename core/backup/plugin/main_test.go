package plugin

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// The test binary is also every backend of these tests: "act ROLE" makes it one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "act" {
		os.Exit(act(os.Args[2]))
	}
	// They wait for limits much more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// lastWords is what an actor says before it does the worst.
const lastWords = "these are my last words"

// act plays a program that was put into the directory of backends.
func act(role string) int {
	fmt.Fprintln(os.Stderr, lastWords)
	if handle, raw := rawRoles[role]; raw {
		return serveRaw(handshake, func(options []grpc.ServerOption) *grpc.Server { return grpc.NewServer(options...) }, handle)
	}
	switch role {
	case "exits at once":
		return 3
	case "exits well at once":
		return 0
	case "hangs at once":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
	case "greets wrongly":
		fmt.Println("hello, world")
		time.Sleep(time.Hour)
	case "greets without end":
		for {
			fmt.Print(strings.Repeat("x", 4096))
		}
	case "has another version":
		other := handshake
		other.ProtocolVersion = 9
		return serveRaw(other, plugin.DefaultGRPCServer, nil)
	case "has no certificate":
		return serveBare(func(l net.Listener) {
			server := grpc.NewServer()
			(glue{service: &service{backend: actor("well"), ctx: context.Background()}}).GRPCServer(nil, server)
			server.Serve(l)
		})
	case "listens and never speaks":
		return serveBare(func(net.Listener) { time.Sleep(time.Hour) })
	case "is a host":
		return actHost()
	}
	return Serve(actor(role))
}

// serveRaw serves methods that do not keep to the wire.
func serveRaw(h plugin.HandshakeConfig, server func([]grpc.ServerOption) *grpc.Server, handle grpc.StreamHandler) int {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: h, GRPCServer: server, Logger: hclog.NewNullLogger(),
		Plugins: plugin.PluginSet{name: raw{handle: handle}},
	})
	return 0
}

type raw struct {
	plugin.NetRPCUnsupportedPlugin
	handle grpc.StreamHandler
}

func (r raw) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	desc := grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for method := range methods {
		stream := streamOf(method)
		stream.Handler = r.handle
		desc.Streams = append(desc.Streams, stream)
	}
	s.RegisterService(&desc, nil)
	return nil
}

func (raw) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

// serveBare shakes hands without go-plugin, and without its certificate.
func serveBare(serve func(net.Listener)) int {
	socket := filepath.Join(os.Getenv(plugin.EnvUnixSocketDir), "bare")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 1
	}
	fmt.Printf("%d|%d|unix|%s|grpc|\n", plugin.CoreProtocolVersion, handshake.ProtocolVersion, socket)
	serve(l)
	return 0
}

// rawRoles are what can be done to a host by somebody who does not use Serve.
var rawRoles = map[string]grpc.StreamHandler{
	"ends without a result": func(any, grpc.ServerStream) error { return nil },
	"says nothing in a fault": func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(answer{Fault: &fault.Error{}})
	},
	"returns nothing in a result": func(_ any, s grpc.ServerStream) error { return s.SendMsg(answer{Result: &result{}}) },
	"lists where nothing is listed": func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(answer{Listed: &backup.Stored{ID: "id"}})
	},
	"says nothing at all": func(_ any, s grpc.ServerStream) error { return s.SendMsg(answer{}) },
	"presents twice": func(_ any, s grpc.ServerStream) error {
		for range 2 {
			if err := s.SendMsg(answer{Presented: &backup.Presented{Roots: map[string]string{"/dat": "/"}}}); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return nil
	},
	"does not wait for the release": func(_ any, s grpc.ServerStream) error {
		if err := s.SendMsg(answer{Presented: &backup.Presented{Roots: map[string]string{"/dat": "/"}}}); err != nil {
			return err
		}
		return s.SendMsg(answer{Result: &result{}})
	},
	"floods for ever": func(_ any, s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(answer{Progress: &backup.Progress{Done: 1}}); err != nil {
				return err
			}
		}
	},
}

// actHost is a host that will be killed: it starts a backend, tells its process on stdout, and lets it store.
func actHost() int {
	dir := os.Getenv("TMPDIR")
	c, err := Host{SocketDir: dir}.Start(context.Background(), program("puts away"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(c.PID())
	_, err = c.Store(context.Background(), backup.Config{Scratch: dir}, aTree(), nil)
	fmt.Fprintln(os.Stderr, err)
	return 1
}
