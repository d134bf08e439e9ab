package ansible

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Progress shows a person how far work is. It is safe for concurrent use.
type Progress struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex
	width int            // of the line that stands on the terminal
	tenth map[string]int // of each label, the last one shown
}

// Bar returns a Progress that writes to w: on a terminal one line that is
// rewritten, elsewhere a line for each label and 10 percent.
func Bar(w io.Writer, terminal bool) *Progress {
	return &Progress{w: w, terminal: terminal, tenth: make(map[string]int)}
}

// Show says how far label is: percent from 0 to 100, negative where there is no
// measure, and the bytes done, 0 where they are not known.
func (p *Progress) Show(label string, percent float64, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	percent, label = min(percent, 100), visible(label)
	if p.terminal {
		p.rewrite(line(label, percent, bytes))
		return
	}
	tenth := int(max(percent, 0) / 10)
	if last, shown := p.tenth[label]; shown && tenth <= last {
		return
	}
	p.tenth[label] = tenth
	fmt.Fprintln(p.w, line(label, percent, bytes))
}

// Done leaves the last line on the terminal and begins a new one.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		fmt.Fprintln(p.w)
		p.width = 0
	}
}

// rewrite covers the rest of a longer line with spaces.
func (p *Progress) rewrite(s string) {
	width := len([]rune(s))
	fmt.Fprint(p.w, "\r", s, strings.Repeat(" ", max(0, p.width-width)))
	p.width = width
}

func line(label string, percent float64, bytes int64) string {
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

// Bytes writes n for people: 1.5 GiB.
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	unit := -1
	for f >= 1023.95 && unit < 5 { // what would be written as 1024.0
		f /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[unit])
}
