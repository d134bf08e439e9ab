package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// page is the reference page of a module, in Markdown.
func page(d ansible.Document) string {
	p := &markdown{}
	p.paragraph("# " + d.Name)
	p.paragraph("<!-- Written by modules/documentation from what the program says of itself. -->")
	for _, text := range append([]string{d.Summary}, notes[d.Name]...) {
		p.paragraph(sentence(text))
	}
	p.paragraph("## Arguments")
	p.paragraph("By hand lists are written with commas or as JSON, other structures as JSON or as key=value,key=value. `--check` " +
		"says what would be done, `--diff` shows what changes, `--json` writes the result as one JSON object.")
	p.table("argument", "type", "default", "meaning")
	p.arguments("", d.Arguments)
	p.paragraph("\n## Result")
	p.table("key", "type", "when", "meaning")
	p.values("", join(common, results[d.Name]))
	p.paragraph("\n## By hand")
	p.paragraph("```sh\n" + unindented(d.Examples) + "\n```")
	p.paragraph("## In a playbook")
	p.paragraph("```yaml\n" + strings.TrimSpace(tasks(d)) + "\n```")
	return strings.TrimSpace(p.String()) + "\n"
}

// markdown is Markdown as far as these pages need it.
type markdown struct{ strings.Builder }

func (m *markdown) paragraph(text string) { m.WriteString(text + "\n\n") }

// table begins one: its head, and the line below.
func (m *markdown) table(columns ...string) {
	m.row(columns...)
	m.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
}

func (m *markdown) row(cells ...string) {
	for _, cell := range cells {
		fmt.Fprintf(m, "| %s ", strings.ReplaceAll(cell, "|", `\|`))
	}
	m.WriteString("|\n")
}

// arguments writes a row for each; before names the mapping that they are keys of.
func (m *markdown) arguments(before string, list []ansible.Argument) {
	for _, a := range list {
		kind, meaning, value := a.Type, sentence(a.Doc), ""
		if a.Elements != "" {
			kind += " of " + a.Elements
		}
		if len(a.Choices) > 0 {
			meaning += " One of `" + strings.Join(a.Choices, "`, `") + "`."
		}
		if a.Default != nil {
			text, _ := json.Marshal(a.Default) // it came out of the program's own defaults
			value = "`" + strings.Trim(string(text), `"`) + "`"
		}
		m.row("`"+before+a.Name+"`", kind, value, meaning)
		m.arguments(before+a.Name+".", a.Keys)
	}
}

func (m *markdown) values(before string, list []value) {
	for _, v := range list {
		kind := v.kind
		if v.elements != "" {
			kind += " of " + v.elements
		}
		m.row("`"+before+v.name+"`", kind, v.when, v.doc)
		m.values(before+v.name+".", v.keys)
	}
}

func unindented(lines string) string {
	var all []string
	for line := range strings.Lines(lines) {
		all = append(all, strings.TrimPrefix(strings.TrimRight(line, "\n"), "  "))
	}
	return strings.Join(all, "\n")
}
