package mirror

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

func TestWrongOptionsAreNamed(t *testing.T) {
	tests := []struct {
		options map[string]any
		words   []string
	}{
		{nil, []string{"path: is missing"}},
		{map[string]any{"path": "backups"}, []string{"path: must be an absolute path"}},
		{map[string]any{"path": "/x", "Keep": 3, "pth": "/y"}, []string{"Keep", "pth"}},
	}
	for _, tt := range tests {
		_, err := New().Describe(t.Context(), backup.Config{Options: tt.options})
		for _, words := range tt.words {
			wantCode(t, err, fault.BadArguments, words)
		}
	}
}

func TestUnsafeHostNamesAreRefused(t *testing.T) {
	fx := newFixture(t)
	for _, host := range []string{"", "..", ".hidden", "-rf", "a/b", "a\nb", strings.Repeat("x", 201)} {
		_, err := New().Store(t.Context(), fx.config, backup.Tree{Host: host, Roots: []string{fx.root}}, ignoreProgress)
		wantCode(t, err, fault.BadArguments, "host")
	}
	if entries, err := os.ReadDir(fx.path); err != nil || len(entries) > 0 {
		t.Errorf("made %v, %v", entries, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":"20260102T120000Z-web","host":"web","time":"2026-01-02T12:00:00Z","roots":["/dat","/dat/wal"]}`))
	f.Add([]byte(`{"roots":["/../etc"]}`))
	f.Add([]byte(`{"roots":["dat",""]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		stored, err := parseRecord(data)
		if err != nil {
			return
		}
		for _, root := range stored.Roots {
			if path := filepath.Join("/repository/web/id", root); path != strings.TrimSuffix("/repository/web/id"+root, "/") {
				t.Errorf("root %q leads to %s", root, path)
			}
		}
	})
}
