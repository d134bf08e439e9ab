package main

import (
	"fmt"
	"strings"

	"go.pcc.com/rewind/core/ansible"
)

// completionScript returns the bash completion of all programs' arguments. For bash the = in an argument is a word of
// its own, which the script has to consider.
func completionScript(all []ansible.Document) string {
	var b strings.Builder
	b.WriteString(`# Completion of Rewind's programs for bash. Written by modules/documentation.

_rewind() {
    local program=${1##*/} current=${COMP_WORDS[COMP_CWORD]} argument=
    if [[ $current == = ]]; then
        argument=${COMP_WORDS[COMP_CWORD - 1]} current=
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then
        argument=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $program:$argument in
`)
	for _, d := range all {
		var names []string
		for _, a := range d.Arguments {
			names = append(names, a.Name+"=")
			choices := a.Choices
			if a.Type == "bool" {
				choices = []string{"true", "false"}
			}
			if len(choices) > 0 {
				fmt.Fprintf(&b, "    %s:%s) mapfile -t COMPREPLY < <(compgen -W '%s' -- \"$current\") ;;\n", d.Name, a.Name,
					strings.Join(choices, " "))
			}
		}
		const flags = "--check --diff --json --help --version"
		fmt.Fprintf(&b, "    %s:)\n        mapfile -t COMPREPLY < <(compgen -W '%s %s' -- \"$current\")\n",
			d.Name, strings.Join(names, " "), flags)
		b.WriteString("        [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n        ;;\n")
	}
	b.WriteString("    *) mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n    esac\n}\n")
	for _, d := range all {
		fmt.Fprintf(&b, "complete -F _rewind %s\n", d.Name)
	}
	return b.String()
}
