package ansible

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.pcc.com/rewind/core/fault"
)

// outcome is all that is known when the work has ended. It writes the output.
type outcome struct {
	name      string
	in        input
	result    Result
	err       *fault.Error
	exception string
	arguments []argument
}

// exitCode returns 2 for wrong arguments and 1 for work that failed, so that a script can tell them apart. For Ansible
// it is 1 in both cases: Ansible takes every code but 0 as failed, and 255 as unreachable.
func (o outcome) exitCode() int {
	switch {
	case o.err == nil:
		return 0
	case o.in.byHand && o.err.Code == fault.BadArguments:
		return 2
	}
	return 1
}

// answer returns the JSON object for Ansible. The facts of a failure are keys beside those of the result. If both have
// a key, the result wins.
func (o outcome) answer() map[string]any {
	all := o.result.object()
	if o.err != nil {
		for key, value := range o.err.Facts {
			if _, taken := all[key]; !taken {
				all[key] = value
			}
		}
		all["failed"], all["code"], all["msg"] = true, o.err.Code, o.err.Msg
		if o.err.Hint != "" {
			all["hint"] = o.err.Hint
		}
	}
	if o.exception != "" {
		all["exception"] = o.exception
	}
	all["rewind_version"] = buildVersion()
	if !o.in.noLog {
		given := shownArguments(o.arguments, o.in.given)
		all["invocation"] = map[string]any{"module_args": given}
	}
	return all
}

// writeObject writes exactly one line, a JSON object. A result that cannot be written as JSON is a defect of this
// program; the reader gets a JSON object all the same.
func (o outcome) writeObject(stdout io.Writer) int {
	code := o.exitCode()
	all, err := o.masked()
	if err != nil {
		code = 1
		all = map[string]any{"failed": true, "changed": o.result.Changed, "code": string(fault.Internal),
			"msg": o.in.call.hidden.maskText(err.Error())}
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(all) // cannot fail: these values were parsed from JSON
	if _, err := stdout.Write(line.Bytes()); err != nil {
		return 1
	}
	return code
}

// masked returns the JSON object with the secrets replaced. The object's own keys, the code and the ID of the run are
// left as they are, even if they contain a secret: without them Ansible could not recognize a failure, and could not
// ask for the run.
func (o outcome) masked() (map[string]any, error) {
	v, err := jsonValue(o.answer())
	if err != nil {
		return nil, err
	}
	all := v.(map[string]any)
	for key, value := range all {
		if key != "code" && key != "run" {
			all[key] = o.in.call.hidden.maskValue(value)
		}
	}
	return all, nil
}

// writeText writes the outcome for a person: what was done to stdout, warnings and errors to stderr.
func (o outcome) writeText(stdout, stderr io.Writer, print func(io.Writer, Result)) int {
	var out, errText bytes.Buffer
	for _, warning := range o.result.Warnings {
		fmt.Fprintf(&errText, "%s: warning: %s\n", o.name, warning)
	}
	switch {
	case o.err != nil:
		o.writeFailure(&errText)
	case print != nil:
		print(&out, o.result)
	case o.result.Msg != "":
		fmt.Fprintln(&out, o.result.Msg)
	}
	if d := o.result.Diff; d != nil && o.in.call.Diff {
		d.write(&out)
	}
	hidden := o.in.call.hidden
	_, err := io.WriteString(stdout, escapeControls(hidden.maskText(out.String())))
	_, _ = io.WriteString(stderr, escapeControls(hidden.maskText(errText.String())))
	if err != nil {
		return 1
	}
	return o.exitCode()
}

// writeFailure writes each problem on a line of its own, then the hints, and then the table of holders.
func (o outcome) writeFailure(w io.Writer) {
	for _, p := range o.err.Problems() {
		fmt.Fprintf(w, "%s: %s\n", o.name, p.Msg)
	}
	if o.exception != "" {
		fmt.Fprintln(w, o.exception)
	}
	if o.err.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", o.err.Hint)
	}
	writeHolders(w, o.err.Facts["holders"])
}

// writeHolders writes the fact "holders", which is a list of objects, as a table.
func writeHolders(w io.Writer, fact any) {
	v, err := jsonValue(fact)
	list, ok := v.([]any)
	if err != nil || !ok {
		return
	}
	columns := []string{"kind", "pid", "command", "unit", "how", "path"}
	rows := [][]string{strings.Split(strings.ToUpper(strings.Join(columns, " ")), " ")}
	for _, item := range list {
		row, _ := item.(map[string]any)
		cells := make([]string, len(columns))
		for i, column := range columns {
			cells[i] = "-"
			if cell := row[column]; cell != nil && cell != "" && cell != json.Number("0") {
				cells[i] = fmt.Sprint(cell)
			}
		}
		rows = append(rows, cells)
	}
	widths := make([]int, len(columns))
	for _, cells := range rows {
		for i, cell := range cells[:len(cells)-1] { // the last column needs no padding
			widths[i] = max(widths[i], utf8.RuneCountInString(cell)+2)
		}
	}
	for _, cells := range rows {
		for i, cell := range cells {
			fmt.Fprintf(w, "%-*s", widths[i], cell)
		}
		fmt.Fprintln(w)
	}
}

// write writes the lines between the common beginning and the common end of both texts.
func (d Diff) write(w io.Writer) {
	before, after := splitLines(d.Before), splitLines(d.After)
	start := 0
	for start < min(len(before), len(after)) && before[start] == after[start] {
		start++
	}
	before, after = before[start:], after[start:]
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	if len(before)+len(after) == 0 {
		return
	}
	fmt.Fprintf(w, "--- %s\n+++ %s\n", orElse(d.BeforeHeader, "before"), orElse(d.AfterHeader, "after"))
	for _, s := range before {
		fmt.Fprintln(w, "-"+s)
	}
	for _, s := range after {
		fmt.Fprintln(w, "+"+s)
	}
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
