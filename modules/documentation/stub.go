package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// maxWidth is the length of the longest line, in bytes, if the text can be broken.
const maxWidth = 118

const fileHeader = `#!/usr/bin/python
# Copyright: (c) The Rewind authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

# Written by modules/documentation from what the program says of itself; the action plugin of this name runs it.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

`

// versionAdded is the first version of the collection that has these modules.
const versionAdded = "0.1.0"

// ansibleModule returns the file of a module for ansible-doc. It holds documentation and no code.
func ansibleModule(d ansible.Document) string {
	y := &yaml{}
	y.pair(0, "module", d.Name)
	y.pair(0, "short_description", strings.TrimSuffix(d.Summary, "."))
	y.pair(0, "version_added", versionAdded)
	y.pair(0, "author", "The Rewind authors (!UNKNOWN)")
	y.line(0, "description:")
	for _, text := range append([]string{d.Summary}, notes[d.Name]...) {
		y.item(1, text)
	}
	y.line(0, "requirements:")
	y.item(1, "root on the server (become), LVM 2.03.11 or later, systemd; no Python")
	y.line(0, "attributes:")
	info := strings.HasSuffix(d.Name, "_info")
	for _, a := range []struct{ name, support, description string }{
		{"check_mode", "full", "Says what would be done, and changes nothing."},
		{"diff_mode", map[bool]string{true: "none", false: "full"}[info], "Shows what changes."},
		{"async", "none", "What it does is a unit of systemd of its own, which goes on when the connection is lost."},
	} {
		y.line(1, a.name+":")
		y.pair(2, "support", a.support)
		y.pair(2, "description", a.description)
	}
	y.line(0, "options:")
	y.options(1, d.Arguments)
	return fileHeader + "DOCUMENTATION = r\"\"\"\n" + y.String() + "\"\"\"\n\nEXAMPLES = r\"\"\"\n" + exampleTasks(d) +
		"\"\"\"\n\nRETURN = r\"\"\"\n" + returnDoc(moduleKeys[d.Name]) + "\"\"\"\n"
}

// yaml builds YAML, as far as the documentation needs it.
type yaml struct{ strings.Builder }

func (y *yaml) line(indent int, text string) { fmt.Fprintf(y, "%*s%s\n", 2*indent, "", text) }

// pair writes a key whose value is a text, which is folded if it is long.
func (y *yaml) pair(indent int, key, text string) { y.scalar(indent, key+": ", text) }

func (y *yaml) item(indent int, text string) { y.scalar(indent, "- ", text) }

func (y *yaml) scalar(indent int, before, text string) {
	quoted := quote(text)
	if 2*indent+len(before)+len(quoted) <= maxWidth {
		y.line(indent, before+quoted)
		return
	}
	y.line(indent, before+">-")
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && 2*indent+2+len(line)+1+len(word) > maxWidth {
			y.line(indent+1, line)
			line = ""
		}
		line = strings.TrimLeft(line+" "+word, " ")
	}
	y.line(indent+1, line)
}

// quote returns text in a form that YAML reads as text and nothing else.
func quote(text string) string {
	plain := text != "" && !strings.ContainsAny(text, `:#'"{}[]&*!|>%@,`+"`\\\n") && !strings.HasPrefix(text, "-") &&
		strings.TrimSpace(text) == text
	switch strings.ToLower(text) {
	case "yes", "no", "true", "false", "on", "off", "null", "~":
		plain = false
	}
	if plain && strings.Trim(text, "0123456789.") != "" {
		return text
	}
	out, _ := json.Marshal(text) // a string in JSON is a string in YAML
	unescape := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")
	return unescape.Replace(string(out))
}

func (y *yaml) options(indent int, list []ansible.Argument) {
	for _, a := range list {
		y.line(indent, a.Name+":")
		y.pair(indent+1, "type", a.Type)
		if a.Elements != "" {
			y.pair(indent+1, "elements", a.Elements)
		}
		y.line(indent+1, "description:")
		y.item(indent+2, sentence(a.Doc))
		if a.Secret {
			y.item(indent+2, "It is never shown.")
		}
		if len(a.Choices) > 0 {
			y.line(indent+1, "choices: ["+strings.Join(a.Choices, ", ")+"]")
		}
		if len(a.Aliases) > 0 {
			y.line(indent+1, "aliases: ["+strings.Join(a.Aliases, ", ")+"]")
		}
		if a.Default != nil {
			text, _ := json.Marshal(a.Default)
			y.line(indent+1, "default: "+string(text))
		}
	}
}

func sentence(doc string) string {
	if doc != "" && !strings.HasSuffix(doc, ".") {
		doc += "."
	}
	return doc
}
