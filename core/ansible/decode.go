package ansible

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/mitchellh/mapstructure"

	"go.pcc.com/rewind/core/fault"
)

// Wrong names a wrong argument, as the fact "arguments" lists them.
type Wrong struct {
	Name    string `json:"name"` // as in volumes[0].size
	Problem string `json:"problem"`
}

// wrongs is the fact that lists every Wrong of a failure.
const wrongs = "arguments"

// Bad is what is wrong with the argument of that name.
func Bad(name, format string, a ...any) *fault.Error {
	problem := fmt.Sprintf(format, a...)
	return fault.New(fault.BadArguments, "%s: %s", name, problem).With(wrongs, []Wrong{{Name: name, Problem: problem}})
}

// Decode fills the struct that into points to from a mapping, for ArgDecoders.
// It names every wrong key and value, and leaves fields alone whose key is
// absent or null.
func Decode(raw any, into any) error {
	t := reflect.TypeOf(into)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return fault.New(fault.Internal, "Decode into %T, which is no pointer to a struct", into)
	}
	mapping, ok := raw.(map[string]any)
	if !ok {
		return errors.New("must be a mapping, not " + kind(raw))
	}
	r := new(reader)
	exact := r.mapping("", arguments(t.Elem()), mapping)
	return fault.All(fault.All(r.wrong...), fill(exact, into))
}

// fill has mapstructure put exact values in place. Every value has been made
// what its field takes, so that an error here is a defect. It is not quoted:
// mapstructure's errors hold the values, which may be secret.
func fill(exact map[string]any, into any) error {
	config := &mapstructure.DecoderConfig{
		Result:      into,
		ErrorUnused: true,
		ZeroFields:  true, // a list replaces the default list instead of covering its beginning
		MatchName:   func(key, field string) bool { return key == field },
	}
	decoder, err := mapstructure.NewDecoder(config)
	if err == nil {
		err = decoder.Decode(exact)
	}
	if err != nil {
		return fault.New(fault.Internal, "the arguments do not fit %T", into)
	}
	return nil
}

// reader turns what YAML, JSON and shells make of values into exactly what the
// fields take, and collects what is wrong.
type reader struct{ wrong []error }

func (r *reader) bad(path string, format string, a ...any) {
	r.wrong = append(r.wrong, Bad(path, format, a...))
}

// mapping reads the arguments of one mapping. What is null counts as not given.
func (r *reader) mapping(path string, list []argument, raw map[string]any) map[string]any {
	exact := make(map[string]any)
	for _, a := range list {
		given := slices.DeleteFunc(slices.Concat([]string{a.name}, a.aliases), func(name string) bool { return raw[name] == nil })
		if len(given) == 0 {
			continue
		}
		name := join(path, given[0])
		if len(given) > 1 {
			r.bad(name, "is also given as %s, which means the same", strings.Join(given[1:], " and as "))
			continue
		}
		before := len(r.wrong)
		value := r.value(name, a.typ, raw[given[0]])
		if len(r.wrong) == before {
			r.choice(name, a.choices, value)
		}
		if len(r.wrong) == before {
			exact[a.name] = value
		}
	}
	r.unknown(path, list, raw)
	return exact
}

// unknown refuses the keys that no argument answers to. Their values may be
// secrets under a misspelt name and are not quoted.
func (r *reader) unknown(path string, list []argument, raw map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if _, known := find(list, key); known {
			continue
		}
		problem := "there is no such argument"
		if a := keeper(list, key); a != "" {
			r.wrong = append(r.wrong, Bad(join(path, key), "%s; %s is one of %s", problem, key, a).
				WithHint("by hand: %s=%s=…, and further ones after a comma; in a playbook: %s: {%s: …}", a, key, a, key))
			continue
		}
		if near := nearest(key, names(list, true)); near != "" {
			problem += ", did you mean " + near + "?"
		}
		f := Bad(join(path, key), "%s", problem)
		r.wrong = append(r.wrong, f.WithHint("the arguments %sare %s", in(path), strings.Join(names(list, false), ", ")))
	}
}

// keeper is the name of the mapping that usually has the key.
func keeper(list []argument, key string) string {
	for _, a := range list {
		if slices.Contains(a.keys, key) {
			return a.name
		}
	}
	return ""
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return "of " + path + " "
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// choice checks a text, or each text of a list, against what is allowed.
func (r *reader) choice(path string, choices []string, value any) {
	if len(choices) == 0 {
		return
	}
	if list, ok := value.([]any); ok {
		for i, v := range list {
			r.choice(element(path, i), choices, v)
		}
		return
	}
	text := fmt.Sprint(value)
	if slices.Contains(choices, text) {
		return
	}
	problem := fmt.Sprintf("%q is none of %s", text, strings.Join(choices, ", "))
	if near := nearest(text, choices); near != "" {
		problem += ", did you mean " + near + "?"
	}
	r.bad(path, "%s", problem)
}

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// value returns raw as what a field of type t takes.
func (r *reader) value(path string, t reflect.Type, raw any) any {
	if reflect.PointerTo(t).Implements(argDecoder) {
		return r.own(path, t, raw)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return r.value(path, t.Elem(), raw)
	case reflect.Slice:
		return r.list(path, t.Elem(), raw)
	case reflect.Map:
		return r.table(path, t.Elem(), raw)
	case reflect.Struct:
		if m, ok := r.asMapping(path, raw); ok {
			return r.mapping(path, arguments(t), m)
		}
		return nil
	case reflect.Interface:
		return raw
	}
	value, err := scalar(t, raw)
	if err != nil {
		r.bad(path, "%v", err)
	}
	return value
}

// own lets an ArgDecoder read raw. The names in its error begin at raw.
func (r *reader) own(path string, t reflect.Type, raw any) any {
	v := reflect.New(t)
	err := v.Interface().(ArgDecoder).DecodeArg(raw)
	if err == nil {
		return v.Elem().Interface()
	}
	inner, _ := fault.Of(err).Facts[wrongs].([]Wrong)
	if len(inner) == 0 {
		r.bad(path, "%v", err)
	}
	for _, w := range inner {
		r.bad(join(path, w.Name), "%s", w.Problem)
	}
	return nil
}

// list reads a list; also a text with commas, a text that is a JSON list, and a
// single value as a list of one.
func (r *reader) list(path string, t reflect.Type, raw any) any {
	if text, ok := raw.(string); ok {
		raw = r.textList(path, text)
	}
	items, ok := raw.([]any)
	if !ok {
		items = []any{raw}
	}
	exact := make([]any, 0, len(items))
	for i, item := range items {
		if item == nil {
			r.bad(element(path, i), "is empty")
			continue
		}
		exact = append(exact, r.value(element(path, i), t, item))
	}
	return exact
}

// listExample is how a list of texts and mappings is written by hand: YAML's short form is no JSON.
const listExample = `'["/dat", {"path": "/boot", "snapshot": false}]'`

func (r *reader) textList(path, text string) any {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") {
		v, err := parseJSON([]byte(text))
		if err != nil {
			r.bad(path, "is no valid JSON: %v; a list with mappings is written %s", err, listExample)
			return []any{}
		}
		return v
	}
	items := []any{}
	for _, part := range split(text) {
		items = append(items, part)
	}
	return items
}

// table reads a mapping with keys of the user's own, such as an environment.
func (r *reader) table(path string, t reflect.Type, raw any) any {
	m, ok := r.asMapping(path, raw)
	if !ok {
		return nil
	}
	exact := make(map[string]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if m[key] == nil {
			r.bad(join(path, key), "is empty")
			continue
		}
		exact[key] = r.value(join(path, key), t, m[key])
	}
	return exact
}

func (r *reader) asMapping(path string, raw any) (map[string]any, bool) {
	if text, ok := raw.(string); ok && strings.HasPrefix(strings.TrimSpace(text), "{") {
		v, err := parseJSON([]byte(text))
		if err != nil {
			r.bad(path, "is no valid JSON: %v", err)
			return nil, false
		}
		raw = v
	} else if ok {
		return r.words(path, text)
	}
	m, ok := raw.(map[string]any)
	if !ok {
		r.bad(path, "must be a mapping, not %s", kind(raw))
	}
	return m, ok
}

// words reads a mapping as a person writes it: path=/srv/backup,keep=7.
func (r *reader) words(path, text string) (map[string]any, bool) {
	m, good := map[string]any{}, true
	parts := split(text)
	for _, part := range parts {
		key, value, ok := strings.Cut(part, "=")
		_, twice := m[key]
		good = good && ok && key != "" && !twice
		m[key] = value
	}
	if len(parts) == 0 || !good {
		r.bad(path, "must be a mapping: JSON, or words such as key=value,key=value, each key once")
		return nil, false
	}
	return m, true
}

// parseJSON reads one JSON value and keeps numbers as they are written.
func parseJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, plainJSONError(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows its end at byte %d", d.InputOffset())
	}
	return v, nil
}

// plainJSONError says where JSON went wrong without quoting it: it may hold
// secrets.
func plainJSONError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("wrong at byte %d", syntax.Offset)
	}
	return errors.New("it ends too early")
}
