package main

import (
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// markdownPage returns the reference page of a module, in Markdown.
func markdownPage(d ansible.Document) string {
	p := &markdown{}
	p.paragraph("# " + d.Name)
	p.paragraph("<!-- Written by modules/documentation from what the program says of itself. -->")
	for _, text := range append([]string{d.Summary}, notes[d.Name]...) {
		p.paragraph(sentence(text))
	}
	p.paragraph("## Arguments")
	p.paragraph("By hand lists are written with commas or as JSON, other structures as JSON or as key=value,key=value. " +
		"`--check` says what would be done, `--diff` shows what changes, `--json` writes the result as one JSON object.")
	p.table("argument", "type", "default", "meaning")
	p.arguments("", d.Arguments)
	p.paragraph("\n## Result")
	p.table("key", "type", "when", "meaning")
	p.values("", concat(commonKeys, moduleKeys[d.Name]))
	p.paragraph("\n## By hand")
	p.paragraph("```sh\n" + unindented(d.Examples) + "\n```")
	p.paragraph("## In a playbook")
	p.paragraph("```yaml\n" + strings.TrimSpace(exampleTasks(d)) + "\n```")
	return strings.TrimSpace(p.String()) + "\n"
}

// markdown builds Markdown, as far as these pages need it.
type markdown struct{ strings.Builder }

func (m *markdown) paragraph(text string) { m.WriteString(text + "\n\n") }

// table begins a table: it writes the head and the line below.
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

// arguments writes a row for each argument. before is put in front of each name: for keys of a mapping it is the name
// of the mapping and a dot.
func (m *markdown) arguments(before string, list []ansible.Argument) {
	for _, a := range list {
		meaning, value := sentence(a.Doc), defaultText(a)
		if len(a.Choices) > 0 {
			meaning += " One of `" + strings.Join(a.Choices, "`, `") + "`."
		}
		if value != "" {
			value = "`" + value + "`"
		}
		m.row("`"+before+a.Name+"`", typeText(a.Type, a.Elements), value, meaning)
		m.arguments(before+a.Name+".", a.Keys)
	}
}

func (m *markdown) values(before string, list []resultKey) {
	for _, v := range list {
		m.row("`"+before+v.name+"`", typeText(v.kind, v.elements), v.when, v.doc)
		m.values(before+v.name+".", v.keys)
	}
}

// typeText returns Ansible's name of a type, for a list with the type of its elements.
func typeText(kind, elements string) string {
	if elements == "" {
		return kind
	}
	return kind + " of " + elements
}

func unindented(lines string) string {
	var all []string
	for line := range strings.Lines(lines) {
		all = append(all, strings.TrimPrefix(strings.TrimRight(line, "\n"), "  "))
	}
	return strings.Join(all, "\n")
}
