package service

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/service/servicetest"
)

func TestStartTransientSendsItsSettings(t *testing.T) {
	f := servicetest.New()
	s := systemdOn(t, f)
	unit := Transient{
		Name: "rewind-1.service", Description: "Rewind",
		Exec: []string{"/bin/x", "journey", "1"}, StopPost: []string{"/bin/x", "settle"},
		Limit: time.Hour, StopLimit: time.Minute, Environment: []string{"A=1"},
	}
	if err := s.StartTransient(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range f.Settings("rewind-1.service") {
		got[p.Name] = fmt.Sprint(p.Value)
	}
	want := map[string]string{
		"Description": "Rewind", "Type": "exec", "KillMode": "process", "CollectMode": "inactive-or-failed",
		"NotifyAccess": "exec", "Environment": "[A=1]", "RuntimeMaxUSec": "3600000000", "TimeoutStopUSec": "60000000",
		"ExecStart":    "{(sasb) [[/bin/x [/bin/x journey 1] false]]}",
		"ExecStopPost": "{(sasb) [[/bin/x [/bin/x settle] false]]}",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := s.StartTransient(t.Context(), unit); !errors.Is(err, fault.Exists) {
		t.Errorf("a second one: %v", err)
	}
}

func TestAutomountsReturnsActiveUnitsOfMounts(t *testing.T) {
	f := servicetest.New()
	f.Add("dat.automount", "active")
	f.Add("srv-idle.automount", "inactive")
	f.Add("systemd-fsck@dev-dat.service.automount", "active") // this unit must not be asked for: the check is no mount
	units := []string{"dat.mount", "srv-idle.mount", "none.mount", "systemd-fsck@dev-dat.service"}
	p, err := systemdOn(t, f).Automounts(t.Context(), units)
	if diff := cmp.Diff(Plan{Active: []string{"dat.automount"}}, p); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestEscapePath(t *testing.T) {
	for path, want := range map[string]string{
		"/": "-", "": "-", "/dat": "dat", "/srv/my data/": "srv-my\\x20data", "/a-b//c": "a\\x2db-c",
		"/.hidden/.x": "\\x2ehidden-.x",
		"/é":          "\\xc3\\xa9",
	} {
		if got := EscapePath(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := MountUnit("/dat"); got != "dat.mount" {
		t.Error(got)
	}
}

// unescapePath reverses EscapePath.
func unescapePath(t *testing.T, name string) string {
	t.Helper()
	if name == "-" {
		return "/"
	}
	var b strings.Builder
	b.WriteByte('/')
	for i := 0; i < len(name); i++ {
		switch {
		case name[i] == '-':
			b.WriteByte('/')
		case name[i] == '\\':
			c, err := strconv.ParseUint(name[i+2:i+4], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteByte(byte(c))
			i += 3
		default:
			b.WriteByte(name[i])
		}
	}
	return b.String()
}

func FuzzEscapePath(f *testing.F) {
	f.Add("/srv/my-data/.x")
	f.Fuzz(func(t *testing.T, path string) {
		parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
		if got := unescapePath(t, EscapePath(path)); got != "/"+strings.Join(parts, "/") {
			t.Errorf("%q came back as %q", path, got)
		}
	})
}
