package ansible

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// hiddenText stands where a secret stood; Ansible itself writes the same.
const hiddenText = "********"

// mask hides secrets in what is written. It is safe for concurrent use.
type mask struct {
	mu      sync.Mutex
	secrets []string // longest first, so that none hides only a part of another
}

// shortest is how long a text must be to be hidden. A shorter one hides nothing: it shows where it stood by what is missing,
// and a setting such as "4" among the secrets would make every other number unreadable, a backup's ID too. Arguments
// that are secret are hidden by their names, however short.
const shortest = 4

// Hidden hides secrets in what is written before the module's own output is: a journal, a progress file.
type Hidden struct{ mask mask }

// Hide returns what hides the secrets.
func Hide(secrets ...string) *Hidden {
	h := new(Hidden)
	h.mask.add(secrets...)
	return h
}

// Text returns s without secrets.
func (h *Hidden) Text(s string) string { return h.mask.text(s) }

// Facts returns facts without secrets. Those that are not fit for JSON are left out.
func (h *Hidden) Facts(facts map[string]any) map[string]any {
	v, err := jsonValue(facts)
	if err != nil {
		return nil
	}
	clean, _ := h.mask.value(v).(map[string]any)
	return clean
}

// add also hides a secret's single lines and the forms it takes inside quotes.
func (m *mask) add(values ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, value := range values {
		for _, s := range append(strings.Split(value, "\n"), value) {
			m.addForms(strings.TrimSpace(s))
		}
	}
	sort.Slice(m.secrets, func(i, j int) bool { return len(m.secrets[i]) > len(m.secrets[j]) })
}

func (m *mask) addForms(secret string) {
	quoted := strconv.Quote(secret)
	inJSON, _ := json.Marshal(secret) // a string is always fit for JSON
	for _, form := range []string{secret, quoted[1 : len(quoted)-1], string(inJSON[1 : len(inJSON)-1])} {
		if len(form) >= shortest && !slices.Contains(m.secrets, form) {
			m.secrets = append(m.secrets, form)
		}
	}
}

// text returns s without secrets.
func (m *mask) text(s string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, secret := range m.secrets {
		s = strings.ReplaceAll(s, secret, hiddenText)
	}
	return s
}

// value returns a JSON value without secrets, in its keys too. A number or a
// bool whose whole text is a secret becomes the hidden text.
func (m *mask) value(v any) any {
	switch v := v.(type) {
	case string:
		return m.text(v)
	case json.Number:
		if s := m.text(v.String()); s == hiddenText {
			return s
		}
	case []any:
		for i := range v {
			v[i] = m.value(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, inner := range v {
			clean[m.text(key)] = m.value(inner)
		}
		return clean
	}
	return v
}

// learn adds the values of all secret arguments in raw.
func (m *mask) learn(list []argument, raw any) {
	switch raw := raw.(type) {
	case string:
		if v, err := parseJSON([]byte(raw)); err == nil {
			if _, isText := v.(string); !isText {
				m.learn(list, v)
			}
		}
	case []any:
		for _, item := range raw {
			m.learn(list, item)
		}
	case map[string]any:
		for key, value := range raw {
			m.learnOne(list, key, value)
		}
	}
}

func (m *mask) learnOne(list []argument, key string, value any) {
	a, known := find(list, key)
	if !known {
		return
	}
	if a.secret {
		m.add(leaves(value)...)
		return
	}
	if len(a.fields) > 0 {
		m.learn(a.fields, value)
	}
}

// leaves returns every text and number within v, also those of JSON in a text.
func leaves(v any) []string {
	var all []string
	switch v := v.(type) {
	case string:
		all = append(all, v)
		for _, part := range split(v) { // a mapping in words: A=1,B=2
			if _, value, ok := strings.Cut(part, "="); ok {
				all = append(all, value)
			}
		}
		if inner, err := parseJSON([]byte(v)); err == nil {
			if _, isText := inner.(string); !isText {
				all = append(all, leaves(inner)...)
			}
		}
	case json.Number:
		all = append(all, v.String())
	case []any:
		for _, item := range v {
			all = append(all, leaves(item)...)
		}
	case map[string]any:
		for _, item := range v {
			all = append(all, leaves(item)...)
		}
	}
	return all
}

// shown returns the arguments as the result repeats them: secrets are hidden by
// name, and what is no argument is left out, because under a misspelt name there
// may be a secret.
func shown(list []argument, raw any) any {
	switch raw := raw.(type) {
	case string:
		return shownText(list, raw)
	case []any:
		all := make([]any, len(raw))
		for i, item := range raw {
			all[i] = shown(list, item)
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(raw))
		for key, value := range raw {
			a, known := find(list, key)
			switch {
			case !known:
			case a.secret && value != nil:
				all[key] = hiddenText
			case len(a.fields) > 0:
				all[key] = shown(a.fields, value)
			default:
				all[key] = value
			}
		}
		return all
	}
	return raw
}

// shownText also finds what is no argument within JSON in a text. JSON that
// cannot be read cannot be searched for secrets.
func shownText(list []argument, raw string) any {
	v, err := parseJSON([]byte(raw))
	if err != nil && strings.ContainsAny(raw, "{[") {
		return hiddenText
	}
	if err != nil {
		return raw
	}
	switch v.(type) {
	case []any, map[string]any:
		return shown(list, v)
	}
	return raw
}

// jsonValue returns v as the JSON value that it is written as.
func jsonValue(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("the result is not fit for JSON: %w", err)
	}
	return parseJSON(data)
}
