package run

import (
	"fmt"
	"regexp"
	"strings"
)

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ParseEnvironment reads lines of KEY=VALUE as systemd's EnvironmentFile= and shells know them: empty lines and those
// that begin with # do not count, "export " may stand before, and a value may stand in single or double quotes. Nothing
// is expanded or run. Errors name the line and never quote it.
func ParseEnvironment(text string) (map[string]string, error) {
	env := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "export "); ok {
			line = strings.TrimSpace(rest)
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !variable.MatchString(key) {
			return nil, fmt.Errorf("line %d is not KEY=VALUE", i+1)
		}
		value, err := unquote(value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		env[key] = value
	}
	return env, nil
}

func unquote(value string) (string, error) {
	if value == "" || value[0] != '"' && value[0] != '\'' {
		return value, nil
	}
	quote := value[:1]
	if len(value) < 2 || !strings.HasSuffix(value, quote) || strings.Contains(value[1:len(value)-1], quote) {
		return "", fmt.Errorf("the value begins with %s and does not end with it, or has more of them", quote)
	}
	inner := value[1 : len(value)-1]
	if strings.Contains(inner, "\x00") {
		return "", fmt.Errorf("the value holds a zero byte")
	}
	return inner, nil
}
