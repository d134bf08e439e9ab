package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the root of the repository.
const root = "../.."

// generatedPages matches pages that a command writes.
var generatedPages = regexp.MustCompile(`^docs/(modules/|torture\.md|benchmarks\.md|scale\.md)`)

// manualPages returns the text of every page that is written by hand, by its path relative to the root.
func manualPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, dir := range []string{"README.md", "CONTRIBUTING.md", "docs"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil || generatedPages.MatchString(name) {
				return err
			}
			text, err := os.ReadFile(path)
			pages[name] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return pages
}

var (
	link        = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]+))?\)`)
	heading     = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors of a page, as GitHub makes them from its headings.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		all[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return all
}

func TestManualLinksResolve(t *testing.T) {
	for name, text := range manualPages(t) {
		for _, l := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			target := filepath.Join(root, filepath.Dir(name), l[1])
			if l[1] == "" {
				target = filepath.Join(root, name)
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: %s leads nowhere", name, l[0])
				continue
			}
			if l[2] == "" || info.IsDir() {
				continue
			}
			page, err := os.ReadFile(target)
			if err != nil || !anchors(string(page))[l[2]] {
				t.Errorf("%s: %s has no such heading", name, l[0])
			}
		}
	}
}

func TestProseHasAtMost100Columns(t *testing.T) {
	for name, text := range manualPages(t) {
		inCode := false
		for i, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				inCode = !inCode
			}
			prose := !inCode && !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "|") &&
				!strings.HasPrefix(line, "[")
			if prose && len([]rune(line)) > 100 {
				t.Errorf("%s:%d has %d columns", name, i+1, len([]rune(line)))
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(manualPages(t)["README.md"], "\n"); n > 90 {
		t.Errorf("it has %d lines; what is more belongs in docs/", n)
	}
}

// The runbook has a section for each code of a fault.
func TestRunbookHasEveryFaultCode(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(root, "core/fault/fault.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`Code = "([a-z_]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) < 30 {
		t.Fatalf("core/fault has %d codes", len(codes))
	}
	text := manualPages(t)["docs/runbook.md"]
	for _, code := range codes {
		if !strings.Contains(text, "\n### `"+code[1]+"`\n") {
			t.Errorf("there is no section %s", code[1])
		}
	}
}
