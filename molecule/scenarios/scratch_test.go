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

// scratch prepares a scenario in the guest and takes it away again at its end, also when it fails. The second script
// must manage whatever state the scenario ends in: it runs without set -e.
func (g guest) scratch(t *testing.T, setUp, takeAway string) string {
	t.Helper()
	t.Cleanup(func() {
		if out, err := g.try(takeAway); err != nil {
			t.Errorf("taking the scenario away: %v\n%s", err, out)
		}
	})
	return g.run(t, "set -e\n"+setUp)
}

// each runs several modules in turn in one connection and returns their results.
func (g guest) each(t *testing.T, calls ...string) []result {
	t.Helper()
	var script strings.Builder
	for _, words := range calls {
		fmt.Fprintf(&script, "timeout 200 %s --json </dev/null 2>/dev/null\n", words)
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

// ran reports whether a command of that name was run: a program, or one of LVM's.
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

// rows is a fact that is a list of mappings, such as holders.
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

// has tells whether one of the rows has all these values.
func has(rows []map[string]any, want map[string]any) bool {
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

// file is a script that writes a file.
func file(path, text string) string {
	return fmt.Sprintf("cat > %s <<'END OF FILE'\n%s\nEND OF FILE\n", path, strings.TrimSpace(text))
}

// unit is a script that writes a systemd unit; daemon-reload is the caller's.
func unit(name, text string) string { return file("/etc/systemd/system/"+name, text) }

// dump is all that --check must leave as it is: LVM's metadata, mounts, units, Rewind's journal and whatever it might
// put beside. What changes by itself is left out: login sessions, and services that systemd's timers start.
const dump = `
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
