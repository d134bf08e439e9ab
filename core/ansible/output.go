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

// outcome is all that is known when the work has ended.
type outcome struct {
	name      string
	in        input
	result    Result
	err       *fault.Error
	exception string
	arguments []argument
}

// exitCode tells a person's script wrong words (2) from work that failed (1).
// Ansible takes every code but 0 as failed, and 255 as unreachable.
func (o outcome) exitCode() int {
	switch {
	case o.err == nil:
		return 0
	case o.in.hand && o.err.Code == fault.BadArguments:
		return 2
	}
	return 1
}

// object is the answer to Ansible. The facts of a failure are keys beside the
// result's, except for those that say what kind of answer it is.
func (o outcome) object() map[string]any {
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
	all["rewind_version"] = built()
	if !o.in.noLog {
		given := shown(o.arguments, o.in.given)
		all["invocation"] = map[string]any{"module_args": given}
	}
	return all
}

// writeObject writes exactly one line, a JSON object. A result that is not fit
// for JSON is a defect, which must not cost the reader the object.
func (o outcome) writeObject(stdout io.Writer) int {
	code := o.exitCode()
	all, err := o.masked()
	if err != nil {
		code = 1
		all = map[string]any{"failed": true, "changed": o.result.Changed, "code": string(fault.Internal), "msg": o.in.call.hidden.text(err.Error())}
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(all) // cannot fail: it came out of JSON
	if _, err := stdout.Write(line.Bytes()); err != nil {
		return 1
	}
	return code
}

// masked returns the object without secrets. Its own keys, its code and what tells a run from others stay: without them
// Ansible would not know a failure, and could not ask for the run.
func (o outcome) masked() (map[string]any, error) {
	v, err := jsonValue(o.object())
	if err != nil {
		return nil, err
	}
	all := v.(map[string]any)
	for key, value := range all {
		if key != "code" && key != "run" {
			all[key] = o.in.call.hidden.value(value)
		}
	}
	return all, nil
}

// writeText shows the outcome to a person: what was done on stdout, what is
// wrong on stderr.
func (o outcome) writeText(stdout, stderr io.Writer, print func(io.Writer, Result)) int {
	var out, complaints bytes.Buffer
	for _, warning := range o.result.Warnings {
		fmt.Fprintf(&complaints, "%s: warning: %s\n", o.name, warning)
	}
	switch {
	case o.err != nil:
		o.complain(&complaints)
	case print != nil:
		print(&out, o.result)
	case o.result.Msg != "":
		fmt.Fprintln(&out, o.result.Msg)
	}
	if d := o.result.Diff; d != nil && o.in.call.Diff {
		d.print(&out)
	}
	hidden := o.in.call.hidden
	_, err := io.WriteString(stdout, visible(hidden.text(out.String())))
	_, _ = io.WriteString(stderr, visible(hidden.text(complaints.String())))
	if err != nil {
		return 1
	}
	return o.exitCode()
}

// complain names each problem on a line of its own, then the hints and whoever
// holds what is needed.
func (o outcome) complain(w io.Writer) {
	msgs := []string{o.err.Msg}
	if list, ok := o.err.Facts["problems"].([]fault.Problem); ok {
		msgs = nil
		for _, p := range list {
			msgs = append(msgs, p.Msg)
		}
	}
	for _, msg := range msgs {
		fmt.Fprintf(w, "%s: %s\n", o.name, msg)
	}
	if o.exception != "" {
		fmt.Fprintln(w, o.exception)
	}
	if o.err.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", o.err.Hint)
	}
	holders(w, o.err.Facts["holders"])
}

// holders prints the fact of that name as a table: it is a list of objects.
func holders(w io.Writer, fact any) {
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
		for i, cell := range cells[:len(cells)-1] { // nothing is to the right of the last one
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

// print shows the lines between the common beginning and the common end.
func (d Diff) print(w io.Writer) {
	before, after := lines(d.Before), lines(d.After)
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

func lines(s string) []string {
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
