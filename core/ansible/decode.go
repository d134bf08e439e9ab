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

// Wrong is one wrong argument. The fact "arguments" of a failure lists all of them.
type Wrong struct {
	Name    string `json:"name"` // for example volumes[0].size
	Problem string `json:"problem"`
}

// argumentsFact is the name of the fact that lists every Wrong of a failure.
const argumentsFact = "arguments"

// Bad returns a fault.BadArguments for the argument of that name. The format and its values say what is wrong with it.
func Bad(name, format string, a ...any) *fault.Error {
	problem := fmt.Sprintf(format, a...)
	return fault.New(fault.BadArguments, "%s: %s", name, problem).With(argumentsFact,
		[]Wrong{{Name: name, Problem: problem}})
}

// BadFor is Bad for what is wrong only because of a choice. It is not reported if the argument that chooses, such as
// action, is wrong itself.
func BadFor(choice, name, format string, a ...any) *fault.Error {
	f := Bad(name, format, a...)
	f.Err = dependsOn(choice)
	return f
}

// dependsOn is the cause of what is wrong only because of a choice: the name of the argument that chooses.
type dependsOn string

func (d dependsOn) Error() string { return "it depends on " + string(d) }

// Decode fills the struct to which into points from a mapping. It leaves fields alone whose key is absent or null.
//
// Its fault is fault.BadArguments, which names every wrong key and value. If raw is not a mapping, the error is not a
// fault. fault.Internal is a defect of this program.
func Decode(raw any, into any) error {
	t := reflect.TypeOf(into)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return fault.New(fault.Internal, "Decode into %T, which is no pointer to a struct", into)
	}
	mapping, ok := raw.(map[string]any)
	if !ok {
		return errors.New("must be a mapping, not " + kindOf(raw))
	}
	n := new(normalizer)
	normalized := n.mapping("", arguments(t.Elem()), mapping)
	return fault.All(fault.All(n.errs...), fill(normalized, into))
}

// fill puts normalized values into the struct by means of mapstructure. Every value has the type of its field by now,
// so an error here is a defect of this program. The error is not quoted: errors of mapstructure contain the values,
// which may be secret.
func fill(normalized map[string]any, into any) error {
	config := &mapstructure.DecoderConfig{
		Result:      into,
		ErrorUnused: true,
		ZeroFields:  true, // a list replaces the default list instead of covering its beginning
		MatchName:   func(key, field string) bool { return key == field },
	}
	decoder, err := mapstructure.NewDecoder(config)
	if err == nil {
		err = decoder.Decode(normalized)
	}
	if err != nil {
		return fault.New(fault.Internal, "the arguments do not fit %T", into)
	}
	return nil
}

// normalizer converts values as YAML, JSON and shells write them to the types of the fields, and collects the errors.
type normalizer struct{ errs []error }

func (n *normalizer) addError(path string, format string, a ...any) {
	n.errs = append(n.errs, Bad(path, format, a...))
}

// mapping converts the values of one mapping. path is the name of the mapping, empty for the arguments themselves. An
// argument that is null counts as not given.
func (n *normalizer) mapping(path string, list []argument, raw map[string]any) map[string]any {
	normalized := make(map[string]any)
	for _, a := range list {
		given := slices.DeleteFunc(slices.Concat([]string{a.name}, a.aliases), func(name string) bool {
			return raw[name] == nil
		})
		if len(given) == 0 {
			continue
		}
		name := joinPath(path, given[0])
		if len(given) > 1 {
			n.addError(name, "is also given as %s, which means the same", strings.Join(given[1:], " and as "))
			continue
		}
		before := len(n.errs)
		value := n.value(name, a.typ, raw[given[0]])
		if len(n.errs) == before {
			n.checkChoice(name, a.choices, value)
		}
		if len(n.errs) == before {
			normalized[a.name] = value
		}
	}
	n.refuseUnknown(path, list, raw)
	return normalized
}

// refuseUnknown adds an error for each key that is no argument's name or alias. The values of these keys are not
// quoted: they may be secrets under a misspelt name.
func (n *normalizer) refuseUnknown(path string, list []argument, raw map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if _, known := findArgument(list, key); known {
			continue
		}
		problem := "there is no such argument"
		if a := mappingWithKey(list, key); a != "" {
			n.errs = append(n.errs, Bad(joinPath(path, key), "%s; %s is one of %s", problem, key, a).
				WithHint("by hand: %s=%s=…, and further ones after a comma; in a playbook: %s: {%s: …}", a, key, a, key))
			continue
		}
		if near := nearest(key, argumentNames(list, true)); near != "" {
			problem += ", did you mean " + near + "?"
		}
		f := Bad(joinPath(path, key), "%s", problem)
		n.errs = append(n.errs, f.WithHint("the arguments %sare %s", ofPath(path),
			strings.Join(argumentNames(list, false), ", ")))
	}
}

// mappingWithKey returns the name of the argument, a mapping, that usually has the key, and "" if there is none.
func mappingWithKey(list []argument, key string) string {
	for _, a := range list {
		if slices.Contains(a.usualKeys, key) {
			return a.name
		}
	}
	return ""
}

func ofPath(path string) string {
	if path == "" {
		return ""
	}
	return "of " + path + " "
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// checkChoice checks that a value, or each element of a list, is one of the choices.
func (n *normalizer) checkChoice(path string, choices []string, value any) {
	if len(choices) == 0 {
		return
	}
	if list, ok := value.([]any); ok {
		for i, v := range list {
			n.checkChoice(elementPath(path, i), choices, v)
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
	n.addError(path, "%s", problem)
}

func elementPath(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// value converts raw to the type t.
func (n *normalizer) value(path string, t reflect.Type, raw any) any {
	if reflect.PointerTo(t).Implements(argDecoderType) {
		return n.decodeOwn(path, t, raw)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return n.value(path, t.Elem(), raw)
	case reflect.Slice:
		return n.list(path, t.Elem(), raw)
	case reflect.Map:
		return n.userMapping(path, t.Elem(), raw)
	case reflect.Struct:
		if m, ok := n.asMapping(path, raw); ok {
			return n.mapping(path, arguments(t), m)
		}
		return nil
	case reflect.Interface:
		return raw
	}
	value, err := scalar(t, raw)
	if err != nil {
		n.addError(path, "%v", err)
	}
	return value
}

// decodeOwn lets an ArgDecoder decode raw. The names in the decoder's error are relative to raw, so path is put before
// them.
func (n *normalizer) decodeOwn(path string, t reflect.Type, raw any) any {
	v := reflect.New(t)
	err := v.Interface().(ArgDecoder).DecodeArg(raw)
	if err == nil {
		return v.Elem().Interface()
	}
	inner, _ := fault.Of(err).Facts[argumentsFact].([]Wrong)
	if len(inner) == 0 {
		n.addError(path, "%v", err)
	}
	for _, w := range inner {
		n.addError(joinPath(path, w.Name), "%s", w.Problem)
	}
	return nil
}

// list converts a list. It also accepts a text with commas, a text that is a JSON list, and a single value, which
// becomes a list with one element.
func (n *normalizer) list(path string, t reflect.Type, raw any) any {
	if text, ok := raw.(string); ok {
		raw = n.listFromText(path, text)
	}
	items, ok := raw.([]any)
	if !ok {
		items = []any{raw}
	}
	normalized := make([]any, 0, len(items))
	for i, item := range items {
		if item == nil {
			n.addError(elementPath(path, i), "is empty")
			continue
		}
		normalized = append(normalized, n.value(elementPath(path, i), t, item))
	}
	return normalized
}

// listExample shows how a list of texts and mappings is written by hand. People try YAML's flow style, which is not
// JSON.
const listExample = `'["/dat", {"path": "/boot", "snapshot": false}]'`

func (n *normalizer) listFromText(path, text string) any {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") {
		v, err := parseJSON([]byte(text))
		if err != nil {
			n.addError(path, "is no valid JSON: %v; a list with mappings is written %s", err, listExample)
			return []any{}
		}
		return v
	}
	items := []any{}
	for _, part := range splitList(text) {
		items = append(items, part)
	}
	return items
}

// userMapping converts a mapping whose keys the user chooses, such as an environment.
func (n *normalizer) userMapping(path string, t reflect.Type, raw any) any {
	m, ok := n.asMapping(path, raw)
	if !ok {
		return nil
	}
	normalized := make(map[string]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if m[key] == nil {
			n.addError(joinPath(path, key), "is empty")
			continue
		}
		normalized[key] = n.value(joinPath(path, key), t, m[key])
	}
	return normalized
}

func (n *normalizer) asMapping(path string, raw any) (map[string]any, bool) {
	if text, ok := raw.(string); ok && strings.HasPrefix(strings.TrimSpace(text), "{") {
		v, err := parseJSON([]byte(text))
		if err != nil {
			n.addError(path, "is no valid JSON: %v", err)
			return nil, false
		}
		raw = v
	} else if ok {
		return n.mappingFromWords(path, text)
	}
	m, ok := raw.(map[string]any)
	if !ok {
		n.addError(path, "must be a mapping, not %s", kindOf(raw))
	}
	return m, ok
}

// mappingFromWords reads a mapping as a person writes it, such as path=/srv/backup,keep=7.
func (n *normalizer) mappingFromWords(path, text string) (map[string]any, bool) {
	m, good := map[string]any{}, true
	parts := splitList(text)
	for _, part := range parts {
		key, value, ok := strings.Cut(part, "=")
		_, twice := m[key]
		good = good && ok && key != "" && !twice
		m[key] = value
	}
	if len(parts) == 0 || !good {
		n.addError(path, "must be a mapping: JSON, or words such as key=value,key=value, each key once")
		return nil, false
	}
	return m, true
}

// parseJSON parses exactly one JSON value, and keeps numbers as they are written.
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

// plainJSONError says where JSON is wrong, without quoting it, because it may contain secrets.
func plainJSONError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("wrong at byte %d", syntax.Offset)
	}
	return errors.New("it ends too early")
}
