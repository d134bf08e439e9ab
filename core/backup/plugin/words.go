package plugin

import (
	"bytes"
	"strings"
	"sync"
)

const (
	maxLine  = 4096 // bytes; a longer line is cut into several
	maxWords = 4096 // bytes of a backend's last words that go into a fault: a stack fits in
)

// words are what a backend says beside its answers: the host's log, and the last of them for a fault.
type words struct {
	mu   sync.Mutex
	log  func(string)
	tail string
}

func (w *words) line(text string) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tail += text + "\n"
	for len(w.tail) > maxWords {
		_, rest, cut := strings.Cut(w.tail, "\n")
		if !cut || rest == "" {
			rest = strings.ToValidUTF8(w.tail[len(w.tail)-maxWords:], "")
		}
		w.tail = rest
	}
	if w.log != nil {
		w.log(text)
	}
}

func (w *words) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tail
}

// lines cuts what is written to it into lines; there is one for each stream.
type lines struct {
	to      *words
	partial []byte
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for {
		text, rest, ended := bytes.Cut(p, []byte("\n"))
		l.partial = append(l.partial, text...)
		for len(l.partial) > maxLine {
			l.to.line(string(l.partial[:maxLine]))
			l.partial = l.partial[maxLine:]
		}
		if !ended {
			return n, nil
		}
		l.to.line(string(l.partial))
		l.partial = l.partial[:0]
		p = rest
	}
}
