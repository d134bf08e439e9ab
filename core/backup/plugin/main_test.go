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

// The test binary is also the program of every backend in these tests: the arguments "act ROLE" make it one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "act" {
		os.Exit(playRole(os.Args[2]))
	}
	// The tests wait for time limits much more than they work, so more of them than CPUs can run at the same time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// startupLine is what the program of a backend prints before anything else. A fault must contain it as last output.
const startupLine = "these are my last words"

// playRole does what the program of a backend with this role does, and returns its exit code.
func playRole(role string) int {
	fmt.Fprintln(os.Stderr, startupLine)
	if handle, raw := rawRoles[role]; raw {
		server := func(options []grpc.ServerOption) *grpc.Server { return grpc.NewServer(options...) }
		return serveRaw(handshake, server, handle)
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
			(grpcPlugin{service: &service{backend: fakeBackend("well"), ctx: context.Background()}}).GRPCServer(nil, server)
			server.Serve(l)
		})
	case "listens and never speaks":
		return serveBare(func(net.Listener) { time.Sleep(time.Hour) })
	case "is a host":
		return runHost()
	}
	return Serve(fakeBackend(role))
}

// serveRaw serves all methods with handle, which need not keep to the rules of wire.go.
func serveRaw(h plugin.HandshakeConfig, server func([]grpc.ServerOption) *grpc.Server, handle grpc.StreamHandler) int {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: h, GRPCServer: server, Logger: hclog.NewNullLogger(),
		Plugins: plugin.PluginSet{pluginName: rawPlugin{handle: handle}},
	})
	return 0
}

type rawPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	handle grpc.StreamHandler
}

func (r rawPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	desc := grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for method := range methods {
		stream := streamDesc(method)
		stream.Handler = r.handle
		desc.Streams = append(desc.Streams, stream)
	}
	s.RegisterService(&desc, nil)
	return nil
}

func (rawPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

// serveBare makes the handshake without go-plugin, and without the certificate that it should have.
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

// rawRoles are ways to misbehave that are possible only for a backend that does not use Serve.
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

// runHost is the program of a host that the test kills: it starts a backend, prints the ID of its process, and has it
// store.
func runHost() int {
	dir := os.Getenv("TMPDIR")
	c, err := Host{SocketDir: dir}.Start(context.Background(), program("cleans up"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(c.PID())
	_, err = c.Store(context.Background(), backup.Config{Scratch: dir}, sampleTree(), nil)
	fmt.Fprintln(os.Stderr, err)
	return 1
}
