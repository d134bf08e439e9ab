//go:build lab

package scenarios

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// prepare runs the script setUp, with set -e, and returns its output. When the test ends, also if it fails, it runs the
// script cleanUp. That one must cope with every state in which the test can end, and runs without set -e; only its last
// command must succeed.
func (g guest) prepare(t *testing.T, setUp, cleanUp string) string {
	t.Helper()
	t.Cleanup(func() {
		if out, err := g.try(cleanUp); err != nil {
			t.Errorf("cleaning up after the scenario: %v\n%s", err, out)
		}
	})
	return g.run(t, "set -e\n"+setUp)
}

// callEach runs several command lines of modules one after the other, in one script, and returns their results.
func (g guest) callEach(t *testing.T, calls ...string) []result {
	t.Helper()
	var script strings.Builder
	for _, call := range calls {
		fmt.Fprintf(&script, "timeout 200 %s --json </dev/null 2>/dev/null\n", call)
	}
	script.WriteString("true\n")
	out := g.run(t, script.String())
	var results []result
	decoder := json.NewDecoder(strings.NewReader(out))
	for {
		var r result
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("result %d: %v\n%s", len(results), err, out)
		}
		results = append(results, r)
	}
	if len(results) != len(calls) {
		t.Fatalf("%d results of %d calls\n%s", len(results), len(calls), out)
	}
	return results
}

func (r result) failed() bool { b, _ := r["failed"].(bool); return b }
func (r result) hint() string { s, _ := r["hint"].(string); return s }

// ran reports whether the module has run a program, or an LVM command, of that name.
func (r result) ran(name string) bool {
	return slices.ContainsFunc(r.rows("commands"), func(c map[string]any) bool {
		argv, _ := c["argv"].([]any)
		return len(argv) > 0 && slices.Contains(argv[:min(2, len(argv))], any(name))
	})
}

func (r result) String() string {
	text, _ := json.MarshalIndent(r, "", " ")
	return string(text)
}

// rows returns a fact that is a list of objects, such as holders.
func (r result) rows(key string) []map[string]any {
	list, _ := r[key].([]any)
	var rows []map[string]any
	for _, e := range list {
		if row, ok := e.(map[string]any); ok {
			rows = append(rows, row)
		}
	}
	return rows
}

// hasRow reports whether one of the rows has all the wanted values.
func hasRow(rows []map[string]any, want map[string]any) bool {
	for _, row := range rows {
		all := true
		for key, value := range want {
			all = all && fmt.Sprint(row[key]) == fmt.Sprint(value)
		}
		if all {
			return true
		}
	}
	return false
}

// writeFile is a script that writes a file in the guest.
func writeFile(path, text string) string {
	return fmt.Sprintf("cat > %s <<'END OF FILE'\n%s\nEND OF FILE\n", path, strings.TrimSpace(text))
}

// writeUnit is a script that writes a unit of systemd. The caller must add "systemctl daemon-reload".
func writeUnit(name, text string) string { return writeFile("/etc/systemd/system/"+name, text) }

// showState is a script that prints all that --check must not change: LVM's metadata, mounts, units, Rewind's journal,
// and where Rewind could write files. It leaves out what changes by itself: login sessions, and services that systemd's
// timers start.
const showState = `
vgs --noheadings -o vg_name,vg_seqno,vg_free
lvs -a --noheadings -o lv_full_name,lv_uuid,lv_attr,lv_size,lv_tags,origin,seg_pe_ranges
dmsetup table | sort
grep -v /run/user /proc/self/mountinfo | sort
swapon --noheadings
systemctl list-units --all --plain --no-legend --no-pager -t service,socket,timer,mount,automount |
	awk '!/user|session|systemd-|apt-|man-db|logrotate|e2scrub|fstrim|dpkg|lvmpolld/ {print $1, $3, $4}' | sort
find /var/lib/rewind/journal -type f -exec sha256sum {} + 2>/dev/null | sort
find /etc/systemd/system /run/rewind/mounts /mnt 2>/dev/null | sort
`
