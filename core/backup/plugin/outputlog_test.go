package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The log gets whole lines, however many bytes arrive at a time.
func TestOutputIsSplitIntoLines(t *testing.T) {
	const text = "first\n\nthird \xff\nno end"
	for size := 1; size <= len(text); size++ {
		var log []string
		w := &outputLog{log: func(line string) { log = append(log, line) }}
		out := &lineWriter{log: w}
		for unwritten := text; unwritten != ""; unwritten = unwritten[min(size, len(unwritten)):] {
			if n, err := out.Write([]byte(unwritten[:min(size, len(unwritten))])); err != nil || n != min(size, len(unwritten)) {
				t.Fatal(n, err)
			}
		}
		if diff := cmp.Diff([]string{"first", "", "third \uFFFD"}, log); diff != "" {
			t.Errorf("%d bytes at a time:\n%s", size, diff)
		}
	}
}

func TestKeptOutputIsBounded(t *testing.T) {
	w := &outputLog{}
	out := &lineWriter{log: w}
	for i := range 10000 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	last := w.tail()
	if len(last) > maxTail || !strings.HasPrefix(last, "line ") || !strings.HasSuffix(last, "line 9999\n") {
		t.Errorf("%d bytes: %q", len(last), last)
	}
	fmt.Fprint(out, strings.Repeat("x", 3*maxLine))
	if last = w.tail(); len(last) > maxTail || !strings.HasSuffix(last, "xxx\n") {
		t.Errorf("a line without end: %d bytes", len(last))
	}
}
