package ansible

import (
	"encoding/json"
	"reflect"
	"time"
)

// Document describes a program. Documentation is generated from it.
type Document struct {
	Name      string     `json:"name"`
	Summary   string     `json:"summary"`
	Examples  string     `json:"examples"` // command lines
	Arguments []Argument `json:"arguments"`
}

// Argument describes an argument of a program, or a key of an argument that is a mapping.
type Argument struct {
	Name     string     `json:"name"`
	Doc      string     `json:"doc"`
	Type     string     `json:"type"`               // Ansible's: str, bool, int, float, list, dict, raw
	Elements string     `json:"elements,omitempty"` // of a list
	Choices  []string   `json:"choices,omitempty"`
	Aliases  []string   `json:"aliases,omitempty"`
	Default  any        `json:"default,omitempty"` // nil: none, or the zero value
	Secret   bool       `json:"secret,omitempty"`
	Keys     []Argument `json:"keys,omitempty"` // if the argument, or each of its elements, may be a mapping
}

// Document returns the description of the program and its arguments.
func (p Program) Document() Document {
	list, defaults := p.arguments()
	return Document{Name: p.name, Summary: p.summary, Examples: p.examples, Arguments: documentArguments(list, defaults)}
}

func (d Document) json() string {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil { // only possible if a default is a function or a channel
		panic(err)
	}
	return string(text)
}

func documentArguments(list []argument, defaults reflect.Value) []Argument {
	var all []Argument
	for _, a := range list {
		d := Argument{Name: a.name, Doc: a.doc, Choices: a.choices, Aliases: a.aliases, Secret: a.secret,
			Keys: documentArguments(a.fields, reflect.Value{})}
		d.Type, d.Elements = ansibleType(a.typ)
		if defaults.IsValid() {
			d.Default = jsonDefault(defaults.FieldByIndex(a.index))
		}
		all = append(all, d)
	}
	return all
}

// ansibleType returns Ansible's name of a type, and that of the elements of a list. It is raw for a type that may be
// written as text or as a mapping, and for a duration, which may be a number or a text.
func ansibleType(t reflect.Type) (name, elements string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == durationType || reflect.PointerTo(t).Implements(argDecoderType) || t.Kind() == reflect.Interface {
		return "raw", ""
	}
	switch t.Kind() {
	case reflect.Slice:
		elements, _ = ansibleType(t.Elem())
		return "list", elements
	case reflect.Map, reflect.Struct:
		return "dict", ""
	case reflect.Bool:
		return "bool", ""
	case reflect.String:
		return "str", ""
	case reflect.Float32, reflect.Float64:
		return "float", ""
	}
	return "int", ""
}

// jsonDefault returns a default for JSON, and nil if it is a zero value that means that nothing is set.
func jsonDefault(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.IsZero():
		return nil
	case v.Type() == durationType:
		return time.Duration(v.Int()).String()
	case v.Kind() == reflect.Pointer:
		return jsonDefault(v.Elem())
	}
	return v.Interface()
}
