package ansible

import (
	"reflect"
	"slices"
	"strings"
)

// ArgDecoder is implemented by arguments, and by elements of lists, that can be written in a form of their own. For
// example, a volume is either a path, or a mapping with vg and lv.
//
// raw is the value from JSON or from the words: a string, bool, json.Number, []any or map[string]any. For a mapping
// DecodeArg calls Decode. Its errors must not quote secrets.
type ArgDecoder interface {
	DecodeArg(raw any) error
}

// argument is what the tags of a struct field say about one argument.
type argument struct {
	name      string
	aliases   []string
	doc       string
	choices   []string
	usualKeys []string // of a mapping; whoever gives one of them as an argument is told to put it in the mapping
	secret    bool
	typ       reflect.Type
	index     []int      // of the field, for reflect.Value.FieldByIndex
	fields    []argument // the keys, if the argument, or each of its elements, may be a mapping
}

var argDecoderType = reflect.TypeFor[ArgDecoder]()

// arguments returns the arguments that the struct type t declares, in the order of its fields.
func arguments(t reflect.Type) []argument {
	var list []argument
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
		if name == "" || name == "-" || strings.Contains(options, "squash") {
			continue // VisibleFields also yields the fields of an embedded struct
		}
		list = append(list, argument{
			name:      name,
			aliases:   splitList(field.Tag.Get("alias")),
			doc:       field.Tag.Get("doc"),
			choices:   splitList(field.Tag.Get("choices")),
			usualKeys: splitList(field.Tag.Get("keys")),
			secret:    field.Tag.Get("secret") == "true",
			typ:       field.Type,
			index:     field.Index,
			fields:    mappingOf(field.Type),
		})
	}
	return list
}

// mappingOf returns the arguments that the struct t declares, or the struct to which t points or of which t is a list.
// It returns nil if there is no struct.
func mappingOf(t reflect.Type) []argument {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return arguments(t)
}

func (a argument) hasName(name string) bool {
	return a.name == name || slices.Contains(a.aliases, name)
}

// findArgument returns the argument that has a name or alias.
func findArgument(list []argument, name string) (argument, bool) {
	i := slices.IndexFunc(list, func(a argument) bool { return a.hasName(name) })
	if i < 0 {
		return argument{}, false
	}
	return list[i], true
}

// argumentNames returns the names of all arguments, with aliases also their aliases.
func argumentNames(list []argument, aliases bool) []string {
	var all []string
	for _, a := range list {
		all = append(all, a.name)
		if aliases {
			all = append(all, a.aliases...)
		}
	}
	return all
}

// Differing returns the names of the arguments that differ between a and b, in the order of the struct's fields.
func Differing[A any](a, b A) []string {
	var names []string
	for _, argument := range arguments(reflect.TypeFor[A]()) {
		value := func(s A) any { return reflect.ValueOf(s).FieldByIndex(argument.index).Interface() }
		if !reflect.DeepEqual(value(a), value(b)) {
			names = append(names, argument.name)
		}
	}
	return names
}

// splitList returns the parts of a comma-separated list, without surrounding spaces and without empty parts.
func splitList(s string) []string {
	var parts []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
