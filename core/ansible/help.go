package ansible

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// version is set by the linker when a release is built: -ldflags '-X go.pcc.com/rewind/core/ansible.version=1.2.3'.
var version string

// Version returns the version of the program, or else the commit from which it was built, with the compiler's version
// and the platform.
func Version() string {
	return fmt.Sprintf("%s (%s %s/%s)", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// buildVersion returns the version of the program, or else the commit from which it was built.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "unknown"
}

// helpWidth is the length of the longest line of a description in --help, in bytes.
const helpWidth = 100

// help returns the text of --help. What it says about arguments comes from the tags.
func (p Program) help(list []argument, defaults reflect.Value) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nusage: %s [@FILE] [argument=value]... [--check] [--diff] [--json]\n", p.name, p.summary,
		p.name)
	if len(list) > 0 {
		b.WriteString("\narguments (lists with commas or as JSON, other structures as JSON):\n")
		writeArguments(&b, "  ", list, defaults)
	}
	b.WriteString("\nflags:\n" +
		"  @FILE      arguments in a file, as one JSON object; an argument given as a word wins\n" +
		"  --check    say what would be done, and change nothing\n" +
		"  --diff     show what changes\n" +
		"  --json     write the result as one JSON object\n" +
		"  --help     this text\n" +
		"  --version  the version\n")
	if p.examples != "" {
		b.WriteString("\nexamples:\n")
		for line := range strings.Lines(strings.TrimSpace(p.examples) + "\n") {
			b.WriteString("  " + strings.TrimLeft(line, " "))
		}
	}
	return b.String()
}

func writeArguments(b *strings.Builder, indent string, list []argument, defaults reflect.Value) {
	for _, a := range list {
		fmt.Fprintf(b, "%s%s: %s\n", indent, a.name, a.typeAndDefault(defaults))
		writeWrapped(b, indent+"    ", a.doc)
		writeArguments(b, indent+"    ", a.fields, reflect.Value{})
	}
}

// typeAndDefault returns the type of the argument, its choices and its default, for --help.
func (a argument) typeAndDefault(defaults reflect.Value) string {
	s := typeName(a.typ)
	if len(a.choices) > 0 {
		s += ", one of " + strings.Join(a.choices, ", ")
	}
	if len(a.aliases) > 0 {
		s += "; also " + strings.Join(a.aliases, ", ")
	}
	if a.secret {
		s += ", never shown"
	}
	if !defaults.IsValid() {
		return s
	}
	if d := defaultText(defaults.FieldByIndex(a.index)); d != "" {
		s += "; default " + d
	}
	return s
}

func typeName(t reflect.Type) string {
	hasOwnDecoder := reflect.PointerTo(t).Implements(argDecoderType)
	switch {
	case t == durationType:
		return "seconds, or a time such as 90s or 1h30m"
	case hasOwnDecoder && len(mappingOf(t)) > 0:
		return "text or mapping"
	case hasOwnDecoder:
		return "text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map, reflect.Struct:
		return "mapping"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Interface:
		return "anything"
	}
	return "whole number"
}

// defaultText returns a default for --help, and "" if it is a zero value that means that nothing is set.
func defaultText(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Bool:
		return fmt.Sprint(v.Bool())
	case v.IsZero():
		return ""
	case v.Type() == durationType && v.Int()%int64(time.Second) == 0:
		return fmt.Sprint(v.Int() / int64(time.Second))
	case v.Kind() == reflect.Pointer:
		return defaultText(v.Elem())
	case v.Kind() == reflect.Slice:
		var items []string
		for i := range v.Len() {
			items = append(items, fmt.Sprint(v.Index(i)))
		}
		return strings.Join(items, ",")
	case v.Kind() == reflect.Map:
		text, _ := json.Marshal(v.Interface()) // empty where a default has no JSON
		return string(text)
	}
	return fmt.Sprint(v)
}

// writeWrapped writes text in lines of at most helpWidth bytes.
func writeWrapped(b *strings.Builder, indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > helpWidth && line != indent {
			fmt.Fprintln(b, line)
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	if line != indent {
		fmt.Fprintln(b, line)
	}
}
