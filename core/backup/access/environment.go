package access

import (
	"fmt"
	"regexp"
	"strings"
)

// variableName matches the name of an environment variable.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ParseEnvironment parses lines of KEY=VALUE, as in a file for systemd's EnvironmentFile= or for a shell. It ignores
// empty lines and lines that begin with #. "export " may precede the key, and the value may be in single or double
// quotes. Nothing is expanded or run. An error has the number of the line and never its text, which may be a secret.
func ParseEnvironment(text string) (map[string]string, error) {
	env := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if assignment, ok := strings.CutPrefix(line, "export "); ok {
			line = strings.TrimSpace(assignment)
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !variableName.MatchString(key) {
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

// unquote removes the quotes around a value.
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
