package ansible

import (
	"reflect"
	"slices"
	"strings"
)

// ArgDecoder is an argument, or an element of one, that can be written in its
// own way, such as a volume: a path, or a mapping of vg and lv.
//
// raw is what JSON or the words held: string, bool, json.Number, []any or
// map[string]any. For a mapping DecodeArg calls Decode. Its errors must not
// quote secrets.
type ArgDecoder interface {
	DecodeArg(raw any) error
}

// argument is what a struct's tags say of one argument.
type argument struct {
	name    string
	aliases []string
	doc     string
	choices []string
	keys    []string // that a mapping usually has; who gives one as an argument is told where it goes
	secret  bool
	typ     reflect.Type
	index   []int      // of the field, as reflect counts
	fields  []argument // of the mapping that it, or each of its elements, may be
}

var argDecoder = reflect.TypeFor[ArgDecoder]()

// arguments returns the arguments that struct type t declares, in its order.
func arguments(t reflect.Type) []argument {
	var list []argument
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
		if name == "" || name == "-" || strings.Contains(options, "squash") {
			continue // VisibleFields also yields the fields of an embedded struct
		}
		list = append(list, argument{
			name:    name,
			aliases: split(field.Tag.Get("alias")),
			doc:     field.Tag.Get("doc"),
			choices: split(field.Tag.Get("choices")),
			keys:    split(field.Tag.Get("keys")),
			secret:  field.Tag.Get("secret") == "true",
			typ:     field.Type,
			index:   field.Index,
			fields:  mappingOf(field.Type),
		})
	}
	return list
}

// mappingOf returns the arguments of the struct that t is, points to or lists.
func mappingOf(t reflect.Type) []argument {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return arguments(t)
}

func (a argument) answersTo(name string) bool {
	return a.name == name || slices.Contains(a.aliases, name)
}

// find returns the argument of that name or alias.
func find(list []argument, name string) (argument, bool) {
	i := slices.IndexFunc(list, func(a argument) bool { return a.answersTo(name) })
	if i < 0 {
		return argument{}, false
	}
	return list[i], true
}

// names returns the names of all arguments; with aliases also those.
func names(list []argument, aliases bool) []string {
	var all []string
	for _, a := range list {
		all = append(all, a.name)
		if aliases {
			all = append(all, a.aliases...)
		}
	}
	return all
}

// Differing returns the names of the arguments that are not the same in a and b, in the struct's order.
func Differing[A any](a, b A) []string {
	var names []string
	for _, arg := range arguments(reflect.TypeFor[A]()) {
		in := func(s A) any { return reflect.ValueOf(s).FieldByIndex(arg.index).Interface() }
		if !reflect.DeepEqual(in(a), in(b)) {
			names = append(names, arg.name)
		}
	}
	return names
}

// split returns the parts of a comma-separated list without surrounding spaces;
// empty ones do not count.
func split(s string) []string {
	var parts []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}
