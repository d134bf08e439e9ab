package main

import (
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// exampleTasks returns a program's examples, which are command lines, as tasks of a playbook.
func exampleTasks(d ansible.Document) string {
	y := &yaml{}
	for line := range strings.Lines(d.Examples) {
		command, comment, _ := strings.Cut(strings.TrimSpace(line), "  ")
		words := strings.Fields(command)
		// a task cannot have a file of arguments
		if len(words) == 0 || words[0] != d.Name || strings.Contains(command, " @") {
			continue
		}
		name := strings.TrimSpace(comment)
		if name == "" {
			name = strings.Join(words[1:], " ")
		}
		if y.Len() > 0 {
			y.line(0, "")
		}
		y.pair(0, "- name", capitalized(name))
		flags := ""
		var arguments [][2]string
		for _, word := range words[1:] {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "--check":
				flags += "  check_mode: true\n"
			case "--diff":
				flags += "  diff: true\n"
			case "--json":
			default:
				arguments = append(arguments, [2]string{key, value})
			}
		}
		module := "  pcc.rewind." + d.Name + ":"
		if len(arguments) == 0 {
			module += " {}"
		}
		y.line(0, module)
		for _, a := range arguments {
			y.argument(d, a[0], a[1])
		}
		y.WriteString(flags)
	}
	return y.String()
}

// argument writes an argument of a command line, name=value, as a task has it.
func (y *yaml) argument(d ansible.Document, name, value string) {
	for _, a := range d.Arguments {
		if a.Name != name {
			continue
		}
		switch a.Type {
		case "list":
			y.line(2, name+":")
			for item := range strings.SplitSeq(value, ",") {
				y.item(3, item)
			}
			return
		case "dict":
			y.line(2, name+":")
			for pair := range strings.SplitSeq(value, ",") {
				key, value, _ := strings.Cut(pair, "=")
				y.pair(3, key, value)
			}
			return
		case "bool", "int":
			y.line(2, name+": "+value)
			return
		}
	}
	y.pair(2, name, value)
}

func capitalized(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
