package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The committed documentation is what the programs' descriptions give now.
func TestDocumentationIsUpToDate(t *testing.T) {
	for _, c := range []struct {
		kind, dir string
		files     map[string]string
	}{{"modules", "plugins/modules", moduleFiles()}, {"reference", "docs/modules", referencePages()}} {
		dir := filepath.Join("../..", c.dir)
		for name, text := range c.files {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(got) != text {
				t.Errorf("%s is not what the program says of itself (%v): go run ./modules/documentation %s %s",
					name, err, c.kind, c.dir)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range entries {
			// which is written by hand and is not one of the programs
			if name := file.Name(); c.files[name] == "" && name != "fleet_page.py" {
				t.Errorf("%s documents no program", filepath.Join(c.dir, name))
			}
		}
	}
}

// groff writes a warning about everything in a page that it does not understand.
func TestManPagesAreValidRoff(t *testing.T) {
	for name, page := range manPages("1.2.3") {
		check := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z")
		check.Stdin = strings.NewReader(page)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, want := range []string{"Rewind 1.2.3", ".SH \"ARGUMENTS\"", ".SH \"RESULT\"", `.B "rewind_version"`} {
			if !strings.Contains(page, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
	}
}

func TestBashCompletion(t *testing.T) {
	script := filepath.Join(t.TempDir(), "rewind")
	if err := os.WriteFile(script, []byte(completionScript(documents())), 0o644); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string][]string{
		"lvm_snapshot st":                                        {"state="},
		"lvm_snapshot state =":                                   {"present", "absent", "mounted", "unmounted"},
		"lvm_snapshot name = x state = a":                        {"absent"},
		"/usr/sbin/lvm_merge wait = t":                           {"true"},
		"snap_backup action = un":                                {"unschedule"},
		"snap_backup --js":                                       {"--json"},
		"snap_backup_info bac":                                   {"backend=", "backend_options=", "backend_sha256="},
		"lvm_snapshot_info textfile = " + script[:len(script)-2]: {script},
	} {
		list := strings.Fields(words)
		ask := `source "$1"; compopt() { :; }; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ` +
			`_rewind "$1"; printf '%s\n' "${COMPREPLY[@]}"`
		out, err := exec.Command("bash", append([]string{"-c", ask, "bash", script}, list...)...).CombinedOutput()
		got := strings.Fields(string(out))
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v, want %q", words, got, err, want)
		}
	}
}
