package backup

import (
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/snapset"
)

// An argument that the action does not use is refused, because whoever gave it expects that it has an effect.
func TestArgumentsOfOtherActionsAreRefused(t *testing.T) {
	backup := func() args {
		a := defaults()
		a.Volumes = []access.Volume{{Volume: snapset.Volume{Name: "/dat"}}}
		return a
	}
	of := func(action string, change func(*args)) args {
		a := backup()
		a.Action = action
		change(&a)
		return a
	}
	services := func(a *args) { a.Services = []string{"postgresql"} }
	for name, tt := range map[string]struct {
		a    args
		want string
	}{
		"services of a backup":       {of("backup", services), "services: goes with action=restore merge=true"},
		"services of a mere restore": {of("restore", services), "services: goes with action=restore merge=true"},
		"wait of a check": {of("check", func(a *args) {
			a.Wait = true
		}), "wait: goes with action=restore merge=true"},
		"which backup is checked": {of("check", func(a *args) {
			a.RestoreID = "0123456789"
		}), "restore_id: goes with action=restore"},
		"which backup is made": {of("backup", func(a *args) {
			a.RestoreID = "0123456789"
		}), "restore_id: goes with action=restore"},
		"keep of a restore":             {of("restore", func(a *args) { a.Keep = 1 }), "keep: goes with action=backup"},
		"a merge after a backup":        {of("backup", func(a *args) { a.Merge = true }), "merge: goes with action=restore"},
		"services of a merged restore":  {of("restore", func(a *args) { a.Merge = true; services(a) }), ""},
		"a backup with what it takes":   {of("backup", func(a *args) { a.Keep = 7 }), ""},
		"a restore of a certain backup": {of("restore", func(a *args) { a.RestoreID = "0123456789" }), ""},
	} {
		err := validate(tt.a)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
