package ansible

import (
	"encoding/json"
	"reflect"
	"time"
)

// Document is what a program says of itself, for documentation that is made from it.
type Document struct {
	Name      string     `json:"name"`
	Summary   string     `json:"summary"`
	Examples  string     `json:"examples"` // lines of a shell
	Arguments []Argument `json:"arguments"`
}

// Argument is an argument of a program, or a key of one that is a mapping.
type Argument struct {
	Name     string     `json:"name"`
	Doc      string     `json:"doc"`
	Type     string     `json:"type"`               // Ansible's: str, bool, int, float, list, dict, raw
	Elements string     `json:"elements,omitempty"` // of a list
	Choices  []string   `json:"choices,omitempty"`
	Aliases  []string   `json:"aliases,omitempty"`
	Default  any        `json:"default,omitempty"` // nil: none, or the zero value
	Secret   bool       `json:"secret,omitempty"`
	Keys     []Argument `json:"keys,omitempty"` // of the mapping that it, or each of its elements, may be
}

// Document says what the program is and what it takes.
func (p Program) Document() Document {
	list, defaults := p.arguments()
	return Document{Name: p.name, Summary: p.summary, Examples: p.examples, Arguments: documented(list, defaults)}
}

func (d Document) json() string {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil { // a default that is a function or a channel
		panic(err)
	}
	return string(text)
}

func documented(list []argument, defaults reflect.Value) []Argument {
	var all []Argument
	for _, a := range list {
		d := Argument{Name: a.name, Doc: a.doc, Choices: a.choices, Aliases: a.aliases, Secret: a.secret,
			Keys: documented(a.fields, reflect.Value{})}
		d.Type, d.Elements = ansibleType(a.typ)
		if defaults.IsValid() {
			d.Default = plainDefault(defaults.FieldByIndex(a.index))
		}
		all = append(all, d)
	}
	return all
}

// ansibleType is how Ansible names a type. What can be written as text or as a mapping is raw to it, and so is a time,
// which may be a number of seconds.
func ansibleType(t reflect.Type) (name, elements string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == duration || reflect.PointerTo(t).Implements(argDecoder) || t.Kind() == reflect.Interface {
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

// plainDefault is nil where the zero value means that nothing is set.
func plainDefault(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Bool:
		return v.Bool()
	case v.IsZero():
		return nil
	case v.Type() == duration:
		return time.Duration(v.Int()).String()
	case v.Kind() == reflect.Pointer:
		return plainDefault(v.Elem())
	}
	return v.Interface()
}
