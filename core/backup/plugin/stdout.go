package plugin

import (
	"os"
	"strings"
	"sync"
)

// maxFirstLine is the maximum number of bytes in a fault of what a program printed instead of the handshake.
const maxFirstLine = 200

// recordedStdout is the stdout of a backend. It remembers the first line, because go-plugin does not return what it
// read instead of a handshake.
type recordedStdout struct {
	*os.File

	mu    sync.Mutex
	start []byte
}

func (r *recordedStdout) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if room := maxFirstLine - len(r.start); room > 0 {
		r.start = append(r.start, p[:min(n, room)]...)
	}
	return n, err
}

// firstLine returns the first line, cut off after maxFirstLine bytes.
func (r *recordedStdout) firstLine() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, _, _ := strings.Cut(string(r.start), "\n")
	return strings.ToValidUTF8(text, "\uFFFD")
}
