package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// However the text arrives, the log gets its lines, and the last of them are kept.
func TestWords(t *testing.T) {
	const text = "first\n\nthird \xff\nno end"
	for size := 1; size <= len(text); size++ {
		var log []string
		w := &words{log: func(line string) { log = append(log, line) }}
		out := &lines{to: w}
		for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
			if n, err := out.Write([]byte(rest[:min(size, len(rest))])); err != nil || n != min(size, len(rest)) {
				t.Fatal(n, err)
			}
		}
		if diff := cmp.Diff([]string{"first", "", "third \uFFFD"}, log); diff != "" {
			t.Errorf("%d bytes at a time:\n%s", size, diff)
		}
	}
}

func TestLastWordsAreBounded(t *testing.T) {
	w := &words{}
	out := &lines{to: w}
	for i := range 10000 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	last := w.last()
	if len(last) > maxWords || !strings.HasPrefix(last, "line ") || !strings.HasSuffix(last, "line 9999\n") {
		t.Errorf("%d bytes: %q", len(last), last)
	}
	fmt.Fprint(out, strings.Repeat("x", 3*maxLine))
	if last = w.last(); len(last) > maxWords || !strings.HasSuffix(last, "xxx\n") {
		t.Errorf("a line without end: %d bytes", len(last))
	}
}
