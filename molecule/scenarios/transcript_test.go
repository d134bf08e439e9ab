//go:build lab

package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestManualShowsRealOutput types what the README and the quick start show, and looks for each line that they print
// below it, in its order. They may leave lines out. Figures and times are those of one server at one time.
func TestManualShowsRealOutput(t *testing.T) {
	onlyOn(t, "d12")
	g := guestFor(t)
	g.prepare(t, "", "lvm_snapshot state=absent >/dev/null 2>&1; true")
	for _, page := range []string{"docs/quick-start.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		typed := console(string(text))
		if len(typed) == 0 {
			t.Errorf("%s shows nothing", page)
		}
		for _, c := range typed {
			output := strings.Split(withoutFigures(g.run(t, c.command)), "\n")
			for _, line := range c.lines {
				i := slices.Index(output, withoutFigures(line))
				if i < 0 {
					t.Fatalf("%s: %s does not print\n%s\nbut\n%s", page, c.command, line, strings.Join(output, "\n"))
				}
				output = output[i+1:]
			}
		}
		g.eventually(t, "the end of the merges", "! lvs --noheadings -o lv_name | grep -q snap", reachLimit)
	}
}

// typedCommand is a command of a page, with the lines that the page shows below it.
type typedCommand struct {
	command string
	lines   []string
}

// console reads the blocks of a page that show a session of root.
func console(text string) []typedCommand {
	var typed []typedCommand
	inside := false
	for _, line := range strings.Split(text, "\n") {
		command, isCommand := strings.CutPrefix(line, "# ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case isCommand:
			typed = append(typed, typedCommand{command: command})
		case len(typed) > 0:
			last := &typed[len(typed)-1]
			last.lines = append(last.lines, line)
		}
	}
	return typed
}

// figures are what differs from one server, or time, to another.
var figures = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\d+(\.\d+)? (B|[KMG]iB)`), "SIZE"},
	{regexp.MustCompile(`\d+(\.\d+)? (ms|s)\b`), "DURATION"},
	{regexp.MustCompile(`\bmerg(ing|ed)( \d+%)?`), "MERGE"},
	{regexp.MustCompile(` +`), " "},
}

// withoutFigures puts names in the place of figures.
func withoutFigures(text string) string {
	for _, f := range figures {
		text = f.pattern.ReplaceAllString(text, f.name)
	}
	return text
}
