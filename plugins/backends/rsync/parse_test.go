package rsync

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

func TestParseVersion(t *testing.T) {
	const features = "\n    socketpairs, ACLs, xattrs"
	for said, want := range map[string]string{
		"rsync  version 3.2.7  protocol version 31" + features:            "3.2.7",
		"rsync  version 3.5.0  protocol version 32" + features:            "3.5.0",
		"rsync  version v3.2.0dev  protocol version 31" + features:        "3.2.0dev",
		"rsync  version 3.1.3  protocol version 31" + features:            "3.1.3",
		"rsync  version 3.1.2  protocol version 31" + features:            "",
		"rsync  version 2.6.9  protocol version 29" + features:            "",
		"openrsync: protocol version 29":                                  "",
		"rsync  version 3.2.7  protocol version 31\n    no ACLs, xattrs":  "",
		"rsync  version 3.2.7  protocol version 31\n    ACLs, no xattrs,": "",
	} {
		got, err := parseVersion(said)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", said, got, err)
		}
		if err != nil && fault.Of(err).Code != fault.Unsupported {
			t.Errorf("%q: %v", said, err)
		}
	}
}

// These lines were written by rsync 3.2.7 and 3.5.0.
func TestParseProgress(t *testing.T) {
	for line, want := range map[string]backup.Progress{
		"              0   0%    0.00kB/s    0:00:00 (xfr#0, to-chk=0/5)": {},
		"       33554432  41%   31.95MB/s    0:00:01  ":                   {Done: 33554432},
		"      104857600 100%  120.11MB/s    0:00:00 (xfr#3, to-chk=0/9)": {Done: 104857600, Total: 104857600,
			Files: 3},
		"         700000  50%  667.57MB/s    0:00:00 (xfr#1, ir-chk=1000/1004)": {Done: 700000, Files: 1},
		"         700000  50%  667.57MB/s    0:00:00 (xfr#1, to-chk=2/4)":       {Done: 700000, Total: 1400000, Files: 1},
	} {
		if got, ok := parseProgress(line); !ok || got != want {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "Number of files: 4 (reg: 2, dir: 2)", "12", "x 12% y"} {
		if got, ok := parseProgress(line); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestStatsRead(t *testing.T) {
	var s stats
	for line := range strings.Lines("\nNumber of files: 12 (reg: 8, dir: 3, link: 1)\n" +
		"Number of created files: 12 (reg: 8)\nTotal file size: 1400000 bytes\n" +
		"Total transferred file size: 700000 bytes\nLiteral data: 700 bytes\nMatched data: 5 bytes\n") {
		s.read(strings.TrimSuffix(line, "\n"))
	}
	if want := (stats{files: 8, bytes: 1400000, literal: 700}); s != want {
		t.Errorf("%+v", s)
	}
}

func TestParseStderrLine(t *testing.T) {
	for _, tt := range []struct {
		line string
		kind lineKind
		path string
	}{
		{
			`rsync: [sender] send_files failed to open "/sys/bus/cpu/uevent": Permission denied (13)`,
			sourceUnreadable, "/sys/bus/cpu/uevent",
		},
		{`rsync: [sender] opendir "/dat/a b" failed: Permission denied (13)`, sourceUnreadable, "/dat/a b"},
		{`rsync: [sender] read errors mapping "/dat/x": Input/output error (5)`, sourceUnreadable, "/dat/x"},
		{`file has vanished: "/dat/tmp"`, sourceVanished, "/dat/tmp"},
		{`directory has vanished: "/dat/tmp"`, sourceVanished, "/dat/tmp"},
		{`rsync: [receiver] write failed on "/srv/x": No space left on device (28)`, otherError, ""},
		{`rsync: [generator] recv_generator: mkdir "/srv/x" failed: No space left on device (28)`, otherError, ""},
		{
			`rsync: [receiver] rsync_xal_set: lsetxattr("/srv/x","user.a") failed: Operation not supported (95)`,
			otherError, "",
		},
		{`rsync: connection unexpectedly closed (0 bytes received so far) [sender]`, otherError, ""},
		{
			`rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1338) [sender=3.2.7]`,
			unimportant, "",
		},
		{`rsync warning: some files vanished before they could be transferred (code 24) at main.c(1338) [sender=3.2.7]`,
			unimportant, ""},
		{`Welcome to the backup server`, unimportant, ""},
	} {
		if got := parseStderrLine(tt.line); got != (stderrLine{tt.kind, tt.path}) {
			t.Errorf("%q: %+v", tt.line, got)
		}
	}
}

func TestCodeAndHint(t *testing.T) {
	for _, tt := range []struct {
		stderr string
		want   fault.Code
	}{
		{`rsync: [receiver] write failed on "/srv/x": No space left on device (28)`, fault.RepositoryFull},
		{`rsync: [Receiver] mkdir "/srv/x" failed: Disk quota exceeded (122)`, fault.RepositoryFull},
		{`rsync: [sender] change_dir "/srv" failed: No such file or directory (2)`, fault.RepositoryMissing},
		{`rsync: [sender] change_dir#3 "/srv" failed: No such file or directory (2)`, fault.RepositoryMissing},
		{
			"bash: line 1: rsync: command not found\n" +
				"rsync: connection unexpectedly closed (0 bytes received so far) [sender]",
			fault.Unsupported,
		},
		{
			`rsync: [receiver] rsync_xal_set: lsetxattr("/srv/x","user.a") failed: Operation not supported (95)`,
			fault.Unsupported,
		},
		{"Host key verification failed.\nrsync error: unexplained error (code 255) at io.c(231)", fault.CommandFailed},
	} {
		if got, hint := codeAndHint(12, tt.stderr); got != tt.want || hint == "" {
			t.Errorf("%q: %s, %q", tt.stderr, got, hint)
		}
	}
}

func TestReasonIsFirstErrorLine(t *testing.T) {
	for _, tt := range []struct{ stderr, want string }{
		{"", "it does not say why"},
		{
			"Warning: Permanently added 'x'.\nroot@x: Permission denied (publickey).\nrsync: connection unexpectedly closed",
			"root@x: Permission denied (publickey).",
		},
		{
			"ssh: connect to host x port 22: Connection refused\nrsync: connection unexpectedly closed",
			"ssh: connect to host x port 22: Connection refused",
		},
		{"rsync: [receiver] write failed\nrsync error: x (code 11)", "rsync: [receiver] write failed"},
		{
			"@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@\nIT IS POSSIBLE\nHost key verification " +
				"failed.\nrsync: connection unexpectedly closed (0 bytes received so far) [sender]",
			"REMOTE HOST IDENTIFICATION HAS CHANGED",
		},
		{
			"No ED25519 host key is known for x and you have requested strict checking.\nHost key verification failed.\n" +
				"rsync: connection unexpectedly closed (0 bytes received so far) [sender]",
			"Host key verification failed",
		},
		{
			"Welcome\nTimeout, server x not responding.\nrsync: [sender] connection unexpectedly closed (0 bytes)",
			"rsync: [sender] connection unexpectedly closed (0 bytes), after: Timeout, server x not responding.",
		},
		{"rsync: connection unexpectedly closed (0 bytes)", "rsync: connection unexpectedly closed (0 bytes)"},
	} {
		if got := reason(tt.stderr); got != tt.want {
			t.Errorf("%q: %q", tt.stderr, got)
		}
	}
}

func TestSplitID(t *testing.T) {
	for id, want := range map[string]bool{
		"20261123T200000Z.db1": true, "20261123T200000Z-2.db1.example.com": true, "20261123T200000Z": false,
		"20261123T200000Z..": false, "20261123T200000Z../x": false, "latest": false, "": false,
		"../20261123T200000Z.db1": false,
	} {
		if got, ok := splitID(id); ok != want || ok && got.id() != id {
			t.Errorf("%q: %+v, %v", id, got, ok)
		}
	}
}

func TestUnusedNameCountsUp(t *testing.T) {
	at := time.Date(2026, 11, 23, 21, 0, 0, 5, time.FixedZone("", 3600))
	trees := []datedTree{{name: "20261123T200000Z"}, {name: "20261123T200000Z-2"}}
	got := []string{unusedName(at, nil), unusedName(at, trees[:1]), unusedName(at, trees)}
	if diff := cmp.Diff([]string{"20261123T200000Z", "20261123T200000Z-2", "20261123T200000Z-3"}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("      104857600 100%  120.11MB/s    0:00:00 (xfr#3, to-chk=0/9)")
	f.Add(`rsync: [sender] send_files failed to open "/a": Permission denied (13)`)
	f.Add("Number of files: 12 (reg: 8, dir: 3, link: 1)")
	f.Add("rsync  version 3.2.7  protocol version 31")
	f.Fuzz(func(t *testing.T, line string) {
		if p, ok := parseProgress(line); ok && (p.Done < 0 || p.Files < 0 || p.Total != 0 && p.Total < p.Done) {
			t.Errorf("%q: %+v", line, p)
		}
		var s stats
		if s.read(line); s.files < 0 || s.bytes < 0 || s.literal < 0 {
			t.Errorf("%q: %+v", line, s)
		}
		if c := parseStderrLine(line); c.path != "" && !strings.Contains(line, c.path) {
			t.Errorf("%q: %+v", line, c)
		}
		if v, err := parseVersion(line); err == nil && v == "" {
			t.Errorf("%q: no version and no error", line)
		}
	})
}

func FuzzMarker(f *testing.F) {
	f.Add(`{"id":"x","host":"h","time":"2026-11-23T20:00:00Z","roots":["/dat"]}`, "20261123T200000Z.db1")
	f.Add(`[]`, "..")
	f.Fuzz(func(t *testing.T, data, id string) {
		if _, err := parseMarker("x.json", []byte(data)); err != nil && fault.Of(err).Code != fault.BackendFailed {
			t.Errorf("%q: %v", data, err)
		}
		_ = parseHolder([]byte(data)).String()
		if got, ok := splitID(id); ok && (got.id() != id || strings.ContainsAny(id, "/\x00") ||
			strings.HasPrefix(got.host, ".")) {
			t.Errorf("%q: %+v", id, got)
		}
	})
}
