package ansible

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escapeControls escapes characters that would control a terminal, as Go does in quoted strings (\x1b), except for line
// ends and tabs. Others choose the names of files, processes and backups, which may contain such characters.
func escapeControls(s string) string {
	if strings.IndexFunc(s, controlsTerminal) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if controlsTerminal(r) || r == utf8.RuneError && n == 1 {
			quoted := strconv.QuoteToASCII(s[i : i+n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// controlsTerminal reports whether r is a control character, or one that changes the direction of writing, except for
// line ends and tabs.
func controlsTerminal(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}
