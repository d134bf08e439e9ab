package plugin

import (
	"os"
	"strings"
	"sync"
)

// maxGreeting is how many bytes of what a program printed in place of the handshake go into a fault.
const maxGreeting = 200

// greeting is the stdout of a backend, of which it remembers the first line: go-plugin's errors are only text.
type greeting struct {
	*os.File

	mu    sync.Mutex
	first []byte
}

func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.File.Read(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if room := maxGreeting - len(g.first); room > 0 {
		g.first = append(g.first, p[:min(n, room)]...)
	}
	return n, err
}

func (g *greeting) line() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	text, _, _ := strings.Cut(string(g.first), "\n")
	return strings.ToValidUTF8(text, "\uFFFD")
}
