package plugin

import (
	"bytes"
	"strings"
	"sync"
)

const (
	maxLine = 4096 // bytes; a longer line is cut into several
	maxTail = 4096 // bytes of the last output that go into a fault; enough for a stack trace
)

// outputLog takes the lines that a backend prints. It passes each to the host's log, and keeps the last ones for a
// fault.
type outputLog struct {
	mu     sync.Mutex
	log    func(string) // may be nil
	recent string       // the last lines, at most maxTail bytes
}

func (l *outputLog) addLine(text string) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent += text + "\n"
	for len(l.recent) > maxTail {
		_, later, found := strings.Cut(l.recent, "\n")
		if !found || later == "" {
			later = strings.ToValidUTF8(l.recent[len(l.recent)-maxTail:], "")
		}
		l.recent = later
	}
	if l.log != nil {
		l.log(text)
	}
}

// tail returns the last lines that the backend has printed.
func (l *outputLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent
}

// lineWriter splits what is written to it into lines. Each stream has its own.
type lineWriter struct {
	log     *outputLog
	partial []byte
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		text, remaining, hasNewline := bytes.Cut(p, []byte("\n"))
		l.partial = append(l.partial, text...)
		for len(l.partial) > maxLine {
			l.log.addLine(string(l.partial[:maxLine]))
			l.partial = l.partial[maxLine:]
		}
		if !hasNewline {
			return n, nil
		}
		l.log.addLine(string(l.partial))
		l.partial = l.partial[:0]
		p = remaining
	}
}
