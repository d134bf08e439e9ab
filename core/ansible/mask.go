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

// hiddenText replaces a secret. Ansible itself writes the same text.
const hiddenText = "********"

// mask hides secrets in what is written. It is safe for concurrent use.
type mask struct {
	mu      sync.Mutex
	secrets []string // longest first, so that a secret is not hidden only in part because it contains another one
}

// minSecretLength is the length, in bytes, from which on a secret is hidden wherever it occurs in a text. Hiding a
// shorter one would protect nothing: each replaced spot would show what is missing there. And a setting such as "4"
// among the secrets would make every number with that digit unreadable, even the ID of a backup. The values of secret
// arguments are hidden under their names, however short they are.
const minSecretLength = 4

// Hidden hides secrets in what is written outside the program's output, such as a journal entry or a progress file.
type Hidden struct{ mask mask }

// Hide returns a Hidden that hides these secrets.
func Hide(secrets ...string) *Hidden {
	h := new(Hidden)
	h.mask.add(secrets...)
	return h
}

// Text returns s with the secrets replaced by asterisks.
func (h *Hidden) Text(s string) string { return h.mask.maskText(s) }

// Facts returns facts with the secrets replaced by asterisks. It returns nil if the facts cannot be written as JSON.
func (h *Hidden) Facts(facts map[string]any) map[string]any {
	v, err := jsonValue(facts)
	if err != nil {
		return nil
	}
	clean, _ := h.mask.maskValue(v).(map[string]any)
	return clean
}

// add adds secrets. Each single line of a secret is hidden, too, and so are the forms that it takes inside quotes.
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
	inJSON, _ := json.Marshal(secret) // cannot fail for a string
	for _, form := range []string{secret, quoted[1 : len(quoted)-1], string(inJSON[1 : len(inJSON)-1])} {
		if len(form) >= minSecretLength && !slices.Contains(m.secrets, form) {
			m.secrets = append(m.secrets, form)
		}
	}
}

// maskText returns s with the secrets replaced.
func (m *mask) maskText(s string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, secret := range m.secrets {
		s = strings.ReplaceAll(s, secret, hiddenText)
	}
	return s
}

// maskValue returns a JSON value with the secrets replaced, also in keys. A number whose whole text is a secret becomes
// hiddenText.
func (m *mask) maskValue(v any) any {
	switch v := v.(type) {
	case string:
		return m.maskText(v)
	case json.Number:
		if s := m.maskText(v.String()); s == hiddenText {
			return s
		}
	case []any:
		for i := range v {
			v[i] = m.maskValue(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, inner := range v {
			clean[m.maskText(key)] = m.maskValue(inner)
		}
		return clean
	}
	return v
}

// addArguments adds the values of all secret arguments in raw as secrets. raw may also be JSON in a text.
func (m *mask) addArguments(list []argument, raw any) {
	switch raw := raw.(type) {
	case string:
		if v, err := parseJSON([]byte(raw)); err == nil {
			if _, isText := v.(string); !isText {
				m.addArguments(list, v)
			}
		}
	case []any:
		for _, item := range raw {
			m.addArguments(list, item)
		}
	case map[string]any:
		for key, value := range raw {
			m.addArgument(list, key, value)
		}
	}
}

func (m *mask) addArgument(list []argument, key string, value any) {
	a, known := findArgument(list, key)
	if !known {
		return
	}
	if a.secret {
		m.add(allTexts(value)...)
		return
	}
	if len(a.fields) > 0 {
		m.addArguments(a.fields, value)
	}
}

// allTexts returns every text and number within v, also within JSON in a text.
func allTexts(v any) []string {
	var all []string
	switch v := v.(type) {
	case string:
		all = append(all, v)
		for _, part := range splitList(v) { // it may be a mapping in words: A=1,B=2
			if _, value, ok := strings.Cut(part, "="); ok {
				all = append(all, value)
			}
		}
		if inner, err := parseJSON([]byte(v)); err == nil {
			if _, isText := inner.(string); !isText {
				all = append(all, allTexts(inner)...)
			}
		}
	case json.Number:
		all = append(all, v.String())
	case []any:
		for _, item := range v {
			all = append(all, allTexts(item)...)
		}
	case map[string]any:
		for _, item := range v {
			all = append(all, allTexts(item)...)
		}
	}
	return all
}

// shownArguments returns the arguments as the result repeats them. The values of secret arguments are replaced. Keys
// that are no argument are left out, because a misspelt name may have a secret for its value.
func shownArguments(list []argument, raw any) any {
	switch raw := raw.(type) {
	case string:
		return shownText(list, raw)
	case []any:
		all := make([]any, len(raw))
		for i, item := range raw {
			all[i] = shownArguments(list, item)
		}
		return all
	case map[string]any:
		all := make(map[string]any, len(raw))
		for key, value := range raw {
			a, known := findArgument(list, key)
			switch {
			case !known:
			case a.secret && value != nil:
				all[key] = hiddenText
			case len(a.fields) > 0:
				all[key] = shownArguments(a.fields, value)
			default:
				all[key] = value
			}
		}
		return all
	}
	return raw
}

// shownText is shownArguments for a text, which may be JSON. A text that looks like JSON and cannot be parsed is
// replaced as a whole, because it cannot be searched for secret arguments.
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
		return shownArguments(list, v)
	}
	return raw
}

// jsonValue converts v to what parseJSON returns for the JSON that v is written as.
func jsonValue(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("the result is not fit for JSON: %w", err)
	}
	return parseJSON(data)
}
