package restic

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]string{
		"restic 0.14.0 compiled with go1.19.8 on linux/amd64\n":                       "0.14.0",
		"restic 0.18.0 compiled with go1.24.4 on linux/amd64\n":                       "0.18.0",
		"restic 0.17.4-dev (compiled manually) compiled with go1.23 on linux/arm64\n": "0.17.4",
		"restic 1.0 compiled with go1.30 on linux/amd64\n":                            "1.0.0",
		"restic 0.13.1 compiled with go1.18 on linux/amd64\n":                         "",
		"rustic 0.14.0": "",
		"":              "",
	} {
		v, err := parseVersion(said)
		if want == "" {
			if fault.Of(err) == nil || fault.Of(err).Code != fault.Unsupported {
				t.Errorf("%q: %v, %v", said, v, err)
			}
			continue
		}
		if err != nil || v.String() != want {
			t.Errorf("%q: %v, %v", said, v, err)
		}
	}
}

func TestVersionAtLeast(t *testing.T) {
	for v, want := range map[version][3]bool{
		{0, 14, 0}: {false, false, false}, {0, 16, 5}: {true, true, false}, {0, 17, 0}: {true, true, true},
		{1, 0, 0}: {true, true, true},
	} {
		if got := [3]bool{v.atLeast(withLinks), v.atLeast(withRetry), v.atLeast(withFeatures)}; got != want {
			t.Errorf("%v: %v", v, got)
		}
	}
}

// What each version of restic writes for each failure. The texts of 0.14 and 0.18 were recorded; those of 0.16 and 0.17
// are from the source code.
func TestFaultCodeAndReason(t *testing.T) {
	for _, tt := range []struct {
		version string
		rc      int
		stderr  string
		code    fault.Code
		why     string
	}{
		{"0.14", 1, "Fatal: unable to open config file: stat /r/config: no such file or directory\nIs there a repository " +
			"at the following location?\n/r\n",
			fault.RepositoryMissing, "unable to open config file: stat /r/config: no such file or directory"},
		{"0.14", 1, "Fatal: unable to open config file: dial tcp: connection refused\nIs there a repository at the " +
			"following location?\nrest:http://x/\n",
			fault.CommandFailed, "unable to open config file: dial tcp: connection refused"},
		{"0.18", 10, `{"message_type":"exit_error","code":10,"message":"Fatal: repository does not exist: unable to open ` +
			`config file: stat /r/config: no such file or directory\nIs there a repository at the following location?\n/r"}`,
			fault.RepositoryMissing, "repository does not exist: unable to open config file: stat /r/config: no such file or " +
				"directory"},
		{"0.14", 1, "Fatal: wrong password or no key found\n", fault.WrongPassword, "wrong password or no key found"},
		{"0.18", 12, `{"message_type":"exit_error","code":12,"message":"Fatal: wrong password or no key found"}`,
			fault.WrongPassword, "wrong password or no key found"},
		{"0.17", 11, "unable to create lock in backend: repository is already locked by PID 5 on h\n",
			fault.RepositoryLocked, "unable to create lock in backend: repository is already locked by PID 5 on h"},
		{"0.16", 1, "Fatal: unable to create lock in backend: repository is already locked exclusively by PID 5 on h by " +
			"root (UID 0, GID 0)\nlock was created at 2026\n",
			fault.RepositoryLocked, "unable to create lock in backend: repository is already locked exclusively by PID 5 on " +
				"h by root (UID 0, GID 0)"},
		{"0.14", 1, "Fatal: unable to save snapshot: write /r/data/cf/cf3-tmp-4: no space left on device\n",
			fault.RepositoryFull,
			"unable to save snapshot: write /r/data/cf/cf3-tmp-4: no space left on device"},
		{"0.14", 1, "write /r/locks/eea-tmp-1: no space left on device\n" +
			"github.com/restic/restic/internal/backend/local.(*Local).Save\n\tlocal.go:170\nunable to create lock in backend\n",
			fault.RepositoryFull, "write /r/locks/eea-tmp-1: no space left on device"},
		{"0.14", 1, "unable to create lock in backend: repository is already locked exclusively by PID 5 on h by root (UID " +
			"0, GID 0)\nlock was created at 2026-11-30 22:29:07 (2.22s ago)\nstorage ID 58121541\nthe `unlock` command can " +
			"be used to remove stale locks\n",
			fault.RepositoryLocked, "unable to create lock in backend: repository is already locked exclusively by PID 5 on " +
				"h by root (UID 0, GID 0)"},
		{"0.14", 1, "fusermount: exec: \"fusermount\": executable file not found in $PATH\n", fault.Unsupported,
			"fusermount: exec: \"fusermount\": executable file not found in $PATH"},
		{"0.14", 1, "subprocess ssh: Welcome\nsubprocess ssh: Host key verification failed.\nFatal: unable to open " +
			"repository at sftp:u@h:/x: unable to start the sftp session, error: error receiving " +
			"version packet from server: EOF\n",
			fault.CommandFailed, "unable to open repository at sftp:u@h:/x: unable to start the sftp session, error: error " +
				"receiving version packet from server: EOF, after: Host key verification failed."},
		{"0.14", 1, "subprocess ssh: Welcome\nFatal: wrong password or no key found\n", fault.WrongPassword,
			"wrong password or no key found"},
		{"any", 1, "", fault.CommandFailed, "it does not say why"},
	} {
		if got := faultCode(tt.rc, tt.stderr); got != tt.code {
			t.Errorf("%s: %q means %s, want %s", tt.version, tt.stderr, got, tt.code)
		}
		if got := reason(tt.stderr); got != tt.why {
			t.Errorf("%s: %q, want %q", tt.version, got, tt.why)
		}
	}
}

// playOutput gives the output of a restic to a resticBackup, and returns that and the reported progress.
func playOutput(stdout, stderr string) (*resticBackup, []backup.Progress) {
	var reported []backup.Progress
	s := &resticBackup{report: func(p backup.Progress) { reported = append(reported, p) }}
	for line := range strings.Lines(stderr) {
		s.parseStderr(strings.TrimSpace(line))
	}
	for line := range strings.Lines(stdout) {
		s.parseStdout(strings.TrimSpace(line))
	}
	return s, reported
}

func TestLostFilesOfEachVersion(t *testing.T) {
	const summary14 = `{"message_type":"summary","files_new":3,"data_added":31462184,"total_files_processed":3,` +
		`"total_bytes_processed":31457292,"total_duration":0.75,"snapshot_id":"cfa2e89e"}`
	for _, tt := range []struct {
		name, stdout, stderr string
		code                 fault.Code
		paths                []string
	}{
		{"complete", summary14, "", "", nil},
		{"0.14, unreadable, met twice", summary14,
			`{"message_type":"error","error":{"Op":"open","Path":"/dat/a","Err":13},"during":"scan","item":"/dat/a"}
{"message_type":"error","error":{"Op":"open","Path":"/dat/a","Err":13},"during":"archival","item":"/dat/a"}
Warning: at least one source file could not be read`, fault.SourceUnreadable, []string{"/dat/a"}},
		{"0.14, vanished", summary14, `{"message_type":"error","error":{"Op":"lstat","Path":"/dat/a","Err":2},` +
			`"during":"archival","item":"/dat/a"}`, fault.SourceVanished, []string{"/dat/a"}},
		{"0.14, a root is gone", summary14, "/dat/wal does not exist, skipping\n", fault.SourceVanished,
			[]string{"/dat/wal"}},
		{"0.16, an error without a text", summary14,
			`{"message_type":"error","error":{},"during":"archival","item":"/dat/a"}`, fault.SourceUnreadable,
			[]string{"/dat/a"}},
		{"0.17.1, vanished", summary14, `{"message_type":"error","error":{"message":"lstat /dat/a: no such file or ` +
			`directory"},"during":"archival","item":"/dat/a"}`, fault.SourceVanished, []string{"/dat/a"}},
		{"0.18, unreadable", summary14, `{"message_type":"error","error":{"message":"open /dat/a: permission denied"},` +
			`"during":"archival","item":"/dat/a"}
{"message_type":"exit_error","code":3,"message":"Warning: at least one source file could not be read"}`,
			fault.SourceUnreadable, []string{"/dat/a"}},
	} {
		s, _ := playOutput(tt.stdout, tt.stderr)
		if s.summary == nil || s.summary.ID != "cfa2e89e" || s.summary.Added != 31462184 {
			t.Errorf("%s: summary %+v", tt.name, s.summary)
		}
		lost := s.lost.Fault()
		if (lost == nil) != (tt.code == "") {
			t.Errorf("%s: %v", tt.name, lost)
			continue
		}
		if lost != nil && (lost.Code != tt.code || !cmp.Equal(lost.Facts["paths"], tt.paths)) {
			t.Errorf("%s: %v, %v", tt.name, lost, lost.Facts)
		}
	}
}

// In the output of 0.14 seconds_remaining does not fit into an int64. The rest of the line must be parsed all the same.
func TestProgressWithHugeSecondsRemaining(t *testing.T) {
	_, got := playOutput(`{"message_type":"status","seconds_remaining":18446744073709551615,"percent_done":0.5,`+
		`"total_files":4,"files_done":2,"total_bytes":100,"bytes_done":50,"current_files":["/a"]}

scan finished
{"message_type":"status","percent_done":0}`, "")
	want := []backup.Progress{{Done: 50, Total: 100, Files: 2}, {Done: 50, Total: 100, Files: 2}, {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Only exit code 3 together with a summary is an incomplete backup.
func TestOnlyExitCode3WithSummaryIsIncomplete(t *testing.T) {
	failed := func(rc int) error { return &command.Error{Code: rc, Err: &exec.ExitError{}} }
	with := &resticBackup{summary: &jsonLine{ID: "x"}}
	if !with.isIncomplete(failed(3)) || with.isIncomplete(failed(1)) || with.isIncomplete(failed(-1)) ||
		with.isIncomplete(errors.New("x")) || new(resticBackup).isIncomplete(failed(3)) {
		t.Error("isIncomplete is wrong")
	}
}

func TestSnapshotToStored(t *testing.T) {
	at := time.Date(2026, 11, 23, 20, 0, 0, 123456789, time.UTC)
	tree := backup.Tree{Host: "h", Set: "odd,set name", Time: at, Roots: []string{"/dat"}}
	ours := snapshot{ID: "x", Host: "h", Time: at.Truncate(time.Second), Paths: tree.Roots, Tags: tags(tree, 7, "a,b")}
	want := backup.Stored{
		ID: "x", Host: "h", Set: "odd,set name", Time: at, Roots: tree.Roots, Sequence: 7, Machine: "a,b",
	}
	if diff := cmp.Diff(want, ours.toStored()); diff != "" {
		t.Error(diff)
	}
	for _, tag := range tags(tree, 7, "a,b") {
		if strings.Contains(tag, ",") {
			t.Errorf("restic would take %q for two tags", tag)
		}
	}
	theirs := snapshot{ID: "x", Host: "h", Time: at, Tags: []string{"set=x", "sequence=9"}}
	if got := theirs.toStored(); got.Set != "" || got.Sequence != 0 {
		t.Errorf("another program's tags are believed: %+v", got)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add(`{"message_type":"status","seconds_remaining":18446744073709551615,"bytes_done":50}`)
	f.Add(`{"message_type":"error","error":{"Op":"open","Err":2},"item":"/dat/a"}`)
	f.Add("/x does not exist, skipping")
	f.Add("restic 0.14.0 compiled with go1.19.8 on linux/amd64")
	f.Fuzz(func(t *testing.T, text string) {
		l, ok := parseLine(text)
		if ok && l.Type == "" {
			t.Errorf("%q: a line of no type", text)
		}
		_ = l.vanished()
		s, _ := playOutput(text, text)
		if lost := s.lost.Fault(); lost != nil && len(lost.Facts["paths"].([]string)) == 0 {
			t.Errorf("%q: %v without paths", text, lost)
		}
		_ = faultCode(1, text)
		if reason(text) == "" {
			t.Errorf("%q: no reason", text)
		}
		_, _ = parseVersion(text)
	})
}

func FuzzParseSnapshots(f *testing.F) {
	f.Add(`[{"time":"2026-11-23T20:00:00Z","paths":["/dat"],"hostname":"h","tags":["rewind","set=snap",` +
		`"time=2026-11-23T20:00:00.1Z"],"id":"cfa2"}]`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseSnapshots(text)
		if err != nil && fault.Of(err).Code != fault.BackendFailed {
			t.Errorf("%q: %v", text, err)
		}
		for _, s := range list {
			if got := s.toStored(); got.ID != s.ID || got.Time.Location() != time.UTC {
				t.Errorf("%q: %+v", text, got)
			}
		}
	})
}
