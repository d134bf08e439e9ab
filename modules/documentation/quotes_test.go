package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// quotedMessage matches a line in which a page quotes what a program says of a failure, and its hint.
var quotedMessage = regexp.MustCompile(
	`(?m)^(?:lvm_snapshot|lvm_merge|lvm_snapshot_info|snap_backup|snap_backup_info|hint): (.+)$`)

// The pages quote messages and hints as the programs write them: what a quoted line has beside names and figures stands
// in the source, or is what another program says.
func TestQuotedMessagesStandInTheSource(t *testing.T) {
	patterns := messagePatterns(t)
	for name, page := range manualPages(t) {
		for _, q := range quotedMessage.FindAllStringSubmatch(page, -1) {
			own := saidByOthers.ReplaceAllString(q[1], "")
			rest := []byte(own)
			for _, p := range patterns {
				spans := p.FindStringSubmatchIndex(own)
				for i := 2; i < len(spans); i += 2 { // the texts between the verbs
					copy(rest[spans[i]:spans[i+1]], strings.Repeat("\x00", spans[i+1]-spans[i]))
				}
			}
			if said := plainWords.Find(rest); said != nil {
				t.Errorf("%s quotes what no program says: %q in\n%s", name, said, q[1])
			}
		}
	}
}

// saidByOthers matches what the quoted lines have from LVM, rsync, the kernel and encoding/json.
var saidByOthers = regexp.MustCompile(
	`(?i)write error failed|write failed on|no space left on device|unexpected end of JSON`)

// plainWords matches three words in a row.
var plainWords = regexp.MustCompile(`\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b`)

// messagePatterns returns a pattern for each text of the source that may be a message. Its groups are what stands
// between the verbs.
func messagePatterns(t *testing.T) map[string]*regexp.Regexp {
	t.Helper()
	patterns := map[string]*regexp.Regexp{}
	for _, dir := range []string{"core", "modules", "plugins"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				e, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				text := textOf(e)
				if statics := verb.Split(text, -1); len(strings.Join(statics, "")) >= shortestMessage {
					for i := range statics {
						statics[i] = "(" + regexp.QuoteMeta(statics[i]) + ")"
					}
					patterns[text] = regexp.MustCompile(strings.Join(statics, ".*"))
				}
				return text == ""
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return patterns
}

// shortestMessage is how many letters a text must have beside its verbs to be taken for a message.
const shortestMessage = 12

// verb matches a verb of a format string.
var verb = regexp.MustCompile(`%[^%a-zA-Z]*[a-zA-Z]`)

// textOf returns the text of a string literal, or of several that are added. Anything else is taken for a verb.
func textOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING && utf8.ValidString(text) {
			return text
		}
	case *ast.BinaryExpr:
		left, right := textOf(e.X), textOf(e.Y)
		if e.Op != token.ADD || left == "" && right == "" {
			return ""
		}
		return orVerb(left) + orVerb(right)
	}
	return ""
}

func orVerb(text string) string {
	if text == "" {
		return "%s"
	}
	return text
}
