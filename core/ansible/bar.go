package ansible

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Progress shows a person how far the work is. It is safe for concurrent use.
type Progress struct {
	w        io.Writer
	terminal bool

	mu        sync.Mutex
	lineWidth int            // width of the line that is on the terminal, in characters
	lastTenth map[string]int // for each label, the tenths of the work that were shown last
}

// Bar returns a Progress that writes to w. On a terminal it rewrites one line; elsewhere it writes a line for each
// label whenever another 10 percent are done.
func Bar(w io.Writer, terminal bool) *Progress {
	return &Progress{w: w, terminal: terminal, lastTenth: make(map[string]int)}
}

// Show shows how far the work called label is. percent is from 0 to 100, or negative if it is not known. bytes is how
// many bytes are done, 0 if that is not known.
func (p *Progress) Show(label string, percent float64, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	percent, label = min(percent, 100), escapeControls(label)
	if p.terminal {
		p.rewrite(progressLine(label, percent, bytes))
		return
	}
	tenth := int(max(percent, 0) / 10)
	if last, shown := p.lastTenth[label]; shown && tenth <= last {
		return
	}
	p.lastTenth[label] = tenth
	fmt.Fprintln(p.w, progressLine(label, percent, bytes))
}

// Done ends the line on the terminal, so that what is written next begins on a new line.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lineWidth > 0 {
		fmt.Fprintln(p.w)
		p.lineWidth = 0
	}
}

// rewrite replaces the line on the terminal by s. Spaces cover what a longer line has left.
func (p *Progress) rewrite(s string) {
	width := len([]rune(s))
	fmt.Fprint(p.w, "\r", s, strings.Repeat(" ", max(0, p.lineWidth-width)))
	p.lineWidth = width
}

func progressLine(label string, percent float64, bytes int64) string {
	s := label
	if percent >= 0 {
		full := int(percent / 5)
		s += fmt.Sprintf(" [%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(".", 20-full), int(percent))
	}
	if bytes > 0 {
		s += " " + Bytes(bytes)
	}
	return s
}
