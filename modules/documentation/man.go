package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// manPage returns the manual page of a program (man-pages(7), groff_man(7)).
func manPage(d ansible.Document, version string) string {
	r := &roff{}
	r.macro("TH", strings.ToUpper(d.Name), "8", "", "Rewind "+version, "Rewind")
	r.macro("SH", "NAME")
	r.text(d.Name + ` \- ` + escape(strings.TrimSuffix(uncapitalized(d.Summary), ".")))
	r.macro("SH", "SYNOPSIS")
	r.macro("B", d.Name)
	r.text(`[@\fIFILE\fR] [\fIargument\fR=\fIvalue\fR]... [\-\-check] [\-\-diff] [\-\-json]`)
	r.macro("SH", "DESCRIPTION")
	for i, note := range append([]string{d.Summary}, notes[d.Name]...) {
		if i > 0 {
			r.macro("PP")
		}
		r.text(escape(sentence(note)))
	}
	r.macro("SH", "ARGUMENTS")
	r.text("Lists are written with commas or as JSON, other structures as JSON or as key=value,key=value.")
	r.arguments(d.Arguments)
	r.macro("SH", "OPTIONS")
	for _, option := range [][2]string{
		{"@FILE", "Arguments in a file, as one JSON object. An argument given as a word wins."},
		{"--check", "Say what would be done, and change nothing."}, {"--diff", "Show what changes."},
		{"--json", "Write the result as one JSON object."}, {"--help", "Show the arguments."},
		{"--version", "Show the version."},
	} {
		r.tagged(option[0], option[1])
	}
	r.macro("SH", "RESULT")
	r.text("What \\-\\-json writes, and what Ansible is given:")
	r.values(concat(commonKeys, moduleKeys[d.Name]))
	r.macro("SH", "EXIT STATUS")
	r.text("0; 1 after a failure; 2 where arguments are wrong.")
	if d.Examples != "" {
		r.macro("SH", "EXAMPLES")
		for line := range strings.Lines(d.Examples) {
			command, comment, _ := strings.Cut(strings.TrimSpace(line), "  ")
			if command != "" {
				r.tagged(command, capitalized(strings.TrimSpace(comment)+" "))
			}
		}
	}
	r.macro("SH", "SEE ALSO")
	var others []string
	for _, p := range programs() {
		if name := p.Document().Name; name != d.Name {
			others = append(others, `\fB`+name+`\fR(8)`)
		}
	}
	r.text(strings.Join(append(others, `\fBlvmsnapshot\fR(7)`), ", "))
	return r.String()
}

// roff builds a manual page, as far as these pages need it.
type roff struct{ strings.Builder }

func (r *roff) macro(name string, words ...string) {
	r.WriteString("." + name)
	for _, word := range words {
		fmt.Fprintf(r, " \"%s\"", escape(word))
	}
	r.WriteString("\n")
}

// text writes a line of text, which must be escaped already.
func (r *roff) text(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	r.WriteString(line + "\n")
}

func (r *roff) tagged(tag, text string) {
	r.macro("TP")
	r.macro("B", tag)
	r.text(escape(strings.TrimSpace(text)))
}

func (r *roff) arguments(list []ansible.Argument) {
	for _, a := range list {
		text := sentence(a.Doc)
		if len(a.Choices) > 0 {
			text += " One of " + strings.Join(a.Choices, ", ") + "."
		}
		if len(a.Aliases) > 0 {
			text += " Also " + strings.Join(a.Aliases, ", ") + "."
		}
		if value := defaultText(a); value != "" {
			text += " Default " + value + "."
		}
		r.tagged(a.Name, text)
		if len(a.Keys) > 0 {
			r.macro("RS")
			r.arguments(a.Keys)
			r.macro("RE")
		}
	}
}

// defaultText returns an argument's default as it is written by hand, and "" if there is none.
func defaultText(a ansible.Argument) string {
	if a.Default == nil {
		return ""
	}
	text, _ := json.Marshal(a.Default) // cannot fail: Document has written the same default as JSON
	return strings.Trim(string(text), `"`)
}

func (r *roff) values(list []resultKey) {
	for _, v := range list {
		r.tagged(v.name, v.doc)
		if len(v.keys) > 0 {
			r.macro("RS")
			r.values(v.keys)
			r.macro("RE")
		}
	}
}

// escape escapes the characters that have a meaning for roff, so that they are printed.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~",
		`\(ti`).Replace(s)
}

func uncapitalized(s string) string { return strings.ToLower(s[:1]) + s[1:] }
