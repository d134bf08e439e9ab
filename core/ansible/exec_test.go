package ansible_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// run runs the sample and returns its exit code and all that it wrote.
func run(ctx context.Context, stdin string, words ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = module().Program().Exec(ctx, append([]string{"sample"}, words...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// object runs the sample as Ansible does and returns its output, which must be one JSON object on one line and nothing
// else.
func object(t *testing.T, ctx context.Context, args string) (code int, answer map[string]any) {
	t.Helper()
	code, stdout, stderr := run(ctx, args, "-")
	if stderr != "" {
		t.Errorf("stderr has %q", stderr)
	}
	if strings.Count(stdout, "\n") != 1 || !strings.HasSuffix(stdout, "}\n") {
		t.Errorf("stdout is not one line: %q", stdout)
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil {
		t.Fatalf("%v: %q", err, stdout)
	}
	if failed := answer["failed"] == true; failed != (code == 1) || code > 1 {
		t.Errorf("exit code %d, failed: %v", code, answer["failed"])
	}
	return code, answer
}

func TestAnswerToAnsible(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		args string
		want map[string]any // a part of the answer
	}{
		{"done", t.Context(), `{"volumes": "/dat"}`,
			map[string]any{"changed": true, "msg": "took 1 of snap", "failed": nil, "warnings": nil}},
		{"check", t.Context(), `{"volumes": "/dat", "_ansible_check_mode": true}`, map[string]any{"changed": false}},
		{
			"failed: what was done until then stays", t.Context(), `{"volumes": "/dat", "act": "fail"}`,
			map[string]any{"changed": true, "count": 1.0, "code": "busy", "msg": "merge: /dat is held open",
				"hint": "stop them"},
		},
		{"any error", t.Context(), `{"volumes": "/dat", "act": "odd"}`,
			map[string]any{"code": "internal", "msg": "odd", "hint": nil}},
		{"ended", cancelled, `{"volumes": "/dat", "act": "wait"}`, map[string]any{"code": "interrupted", "changed": true}},
		{"no JSON", t.Context(), `{"volumes": "/dat", "act": "nan"}`, map[string]any{"code": "internal", "changed": true}},
		{"no object", t.Context(), `["volumes"]`,
			map[string]any{"code": "bad_arguments",
				"msg": "the arguments cannot be read: they must be a JSON object, not a list"}},
		{"no JSON in", t.Context(), `{"password": hunter2}`,
			map[string]any{"code": "bad_arguments", "msg": "the arguments cannot be read: wrong at byte 14"}},
		{"nothing in", t.Context(), ``, map[string]any{"code": "bad_arguments",
			"msg": "the arguments cannot be read: it ends too early"}},
		{"null in", t.Context(), `null`, map[string]any{"code": "bad_arguments",
			"msg": "the arguments cannot be read: they must be a JSON object, not nothing"}},
		{"no_log", t.Context(), `{"volumes": "/dat", "_ansible_no_log": true}`, map[string]any{"invocation": nil}},
		{
			"settings that are not as expected", t.Context(),
			`{"volumes": "/dat", "_ansible_check_mode": {}, "_ansible_verbosity": "x"}`,
			map[string]any{"changed": true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, answer := object(t, tt.ctx, tt.args)
			for key, want := range tt.want {
				if diff := cmp.Diff(want, answer[key]); diff != "" {
					t.Errorf("%s: %s", key, diff)
				}
			}
		})
	}
}

func TestEachWrongArgumentIsNamedOnce(t *testing.T) {
	tests := []struct{ args, want string }{
		{`{}`, "volumes"},
		{`{"volumes": [], "name": "-x"}`, "name volumes"},
		// An argument that could not be decoded is not also named as missing.
		{`{"volumes": [null], "name": "-x"}`, "volumes[0] name"},
		{`{"volumes": [{"size": "x"}], "name": "-x"}`, "volumes[0].size name"},
		// Neither is one whose name was misspelt.
		{`{"vloumes": "/dat", "name": "-x"}`, "vloumes name"},
		{`{"name": true}`, "name volumes"},
		// Whether this goes with the choice is not known if the choice is wrong; the rest is wrong in any case.
		{`{"volumes": "/dat", "state": "absent", "size": "mounted"}`, "size"},
		{`{"state": "absnt", "size": "mounted", "name": "-x"}`, "state name volumes"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			_, answer := object(t, t.Context(), tt.args)
			list, _ := answer["arguments"].([]any)
			var names []string
			for _, item := range list {
				names = append(names, item.(map[string]any)["name"].(string))
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("names %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSecretsAreMasked(t *testing.T) {
	const secrets = `"password": "canary\"1\nline-canary-2 <&>", "tokens": {"a": "canary-3", "canary-key": 731731731}`
	args := []string{
		`{"act": "leak", "volumes": [{"vg": "a", "key": "canary-4"}], ` + secrets + `}`,
		`{"act": "leak", "state": "absent", "volumes": [{"vg": "a", "key": "canary-4"}], ` + secrets + `}`,
		`{"act": "panic-secret", "volumes": "/dat", ` + secrets + `}`,
		`{"volumes": "[{\"vg\": \"a\", \"key\": \"canary-4\"}]", ` + secrets + `}`,
		`{"act": "leak", "volumes": [{"key": "canary-4"}], "password": "canary", "tokens": "{\"a\": \"canary-3\"}"}`,
		// Secrets of the wrong type, in the wrong place, or under a wrong name.
		`{"password": ["canary"], "tokens": "canary", "volumes": [{"key": ["canary"]}]}`,
		`{"pasword": "canary", "volumes": [{"vg": "a", "keey": "canary"}, "canary"], "token": {"a": "canary"}}`,
		`{"volumes": "[{\"keey\": \"canary\"}]"}`,
		`{"volumes": "[{\"keey\": \"canary\""}`,
		`{"password": "canary`,
	}
	for _, arg := range args {
		t.Run(arg, func(t *testing.T) {
			if arg[len(arg)-1] == '}' {
				object(t, t.Context(), arg)
			}
			_, stdout, stderr := run(t.Context(), arg, "-")
			failIfSecret(t, arg, stdout+stderr)
		})
	}
	hand := [][]string{
		{"act=leak", `volumes={"key":"canary-4"}`, "password=canary-1", `tokens={"a":"canary-3"}`, "--diff"},
		{"act=leak", `volumes={"key":"canary-4"}`, "password=canary-1", `tokens={"a":"canary-3"}`, "state=absent"},
		{"act=panic-secret", "volumes=/dat", "password=canary-1"},
		{"--password=canary", "pasword=canary", "tokens=canary", "password=x", "password=canary"},
	}
	for _, words := range hand {
		for _, more := range []string{"--check", "--json"} {
			_, stdout, stderr := run(t.Context(), "", append(words, more)...)
			failIfSecret(t, strings.Join(words, " "), stdout+stderr)
		}
	}
}

// failIfSecret fails the test if written contains a secret. A volume's path that is called canary, and a key of a
// mapping, are not secret.
func failIfSecret(t *testing.T, args, written string) {
	t.Helper()
	written = strings.NewReplacer("canary-key", "", `"canary"]`, "").Replace(written)
	for _, word := range []string{"canary", "731731731"} {
		if strings.Contains(written, word) {
			t.Errorf("%s\nwrote a secret:\n%s", args, written)
		}
	}
}

func TestShortSecretDoesNotMaskFailure(t *testing.T) {
	_, answer := object(t, t.Context(), `{"password": "a", "volumes": "/dat", "act": "fail"}`)
	if answer["failed"] != true || answer["changed"] != true || answer["code"] != "busy" {
		t.Errorf("got %v", answer)
	}
}

func TestUnwritableOutputAndUnreadableInputFail(t *testing.T) {
	for _, words := range [][]string{{"volumes=/dat"}, {"volumes=/dat", "--json"}, {"--help"}, {"--version"}} {
		code := module().Program().Exec(t.Context(), append([]string{"sample"}, words...), nil, fullWriter{}, io.Discard)
		if code != 1 {
			t.Errorf("%v: exit code %d", words, code)
		}
	}
	torn := iotest.ErrReader(errors.New("torn"))
	var out bytes.Buffer
	code := module().Program().Exec(t.Context(), []string{"sample", "-"}, torn, &out, io.Discard)
	if code != 1 || !strings.Contains(out.String(), "torn") {
		t.Errorf("exit code %d, %s", code, out.String())
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestCallHasFlagsAndSettings(t *testing.T) {
	var got ansible.Call
	m := module()
	m.Run = func(_ context.Context, c ansible.Call, _ sample) (ansible.Result, error) {
		got = c
		_, err := io.WriteString(c.Progress, "half")
		return ansible.Result{Msg: "done"}, err
	}
	m.Print = nil
	tests := []struct {
		stdin          string
		words          []string
		want           ansible.Call
		stdout, stderr string
	}{
		{
			`{"act": "quick", "_ansible_check_mode": true, "_ansible_diff": true, "_ansible_verbosity": 3,
				"_ansible_patience": 10}`,
			[]string{"-"}, ansible.Call{Check: true, Diff: true, Verbosity: 3, Patience: 10 * time.Second}, "{", "",
		},
		{"", []string{"act=quick", "--diff"}, ansible.Call{Diff: true, Hand: true}, "done\n", "half"},
		{"", []string{"act=quick", "--json", "--check"}, ansible.Call{Check: true}, "{", ""},
	}
	for _, tt := range tests {
		var out, errs bytes.Buffer
		code := m.Program().Exec(t.Context(), append([]string{"sample"}, tt.words...), strings.NewReader(tt.stdin), &out,
			&errs)
		if code != 0 || !strings.HasPrefix(out.String(), tt.stdout) || errs.String() != tt.stderr {
			t.Errorf("%v: exit code %d, %q, %q", tt.words, code, out.String(), errs.String())
		}
		if got.Check != tt.want.Check || got.Diff != tt.want.Diff || got.Hand != tt.want.Hand ||
			got.Verbosity != tt.want.Verbosity ||
			got.Patience != tt.want.Patience {
			t.Errorf("%v: got %+v", tt.words, got)
		}
	}
}

func TestResultSurvivesJSON(t *testing.T) {
	r := ansible.Result{
		Changed:  true,
		Msg:      "done",
		Data:     map[string]any{"bytes": int64(9007199254740993), "states": []string{"merged"}},
		Diff:     &ansible.Diff{Before: "a", After: "b"},
		Warnings: []string{"w"},
		Commands: []command.Record{{Argv: []string{"lvs"}, RC: 5, MS: 7}},
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back ansible.Result
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	for _, result := range []ansible.Result{r, back} {
		var v struct {
			Bytes  int64
			States []string
		}
		if err := result.Into(&v); err != nil || v.Bytes != 9007199254740993 || len(v.States) != 1 {
			t.Errorf("got %v, %v", v, err)
		}
	}
	r.Data, back.Data = nil, nil
	if diff := cmp.Diff(r, back); diff != "" {
		t.Error(diff)
	}
}

// FuzzWords searches for words at which the program panics, or ends with anything but a result, a failure or a list of
// wrong arguments.
func FuzzWords(f *testing.F) {
	f.Add("volumes=/dat,/x\nname=a\n--check")
	f.Add(`volumes=[{"vg":1}]` + "\n--json\n=\n-\n--")
	f.Add("/nowhere/args\nsettle")
	f.Fuzz(func(t *testing.T, words string) {
		list := strings.Split(words, "\n")
		if list[0] == "settle" || strings.Contains(words, "act") {
			return
		}
		code, stdout, stderr := run(t.Context(), "", list...)
		if code < 0 || code > 2 || strings.Contains(stdout+stderr, "a defect of this program") {
			t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
		}
		if code != 0 && stdout+stderr == "" {
			t.Fatal("failed without a word")
		}
	})
}

// FuzzArguments is the same for arguments from Ansible: the output must always be one JSON object.
func FuzzArguments(f *testing.F) {
	f.Add(`{"volumes": ["/dat"], "_ansible_check_mode": true}`)
	f.Add(`{"volumes": [{"vg": "a", "key": "k"}], "password": "s", "tokens": {"a": "b"}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, args string) {
		_, answer := object(t, t.Context(), args)
		if answer["code"] == string(fault.Internal) && !strings.Contains(args, "act") {
			t.Fatalf("%v", answer)
		}
	})
}

// If a file and a word give the same argument, the word wins. If the file cannot be read, it is named and nothing is
// done.
func TestWordsWinOverArgumentsInFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nightly.json")
	if err := os.WriteFile(file, []byte(`{"volumes": ["/dat", "/srv"], "name": "nightly"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, words := range map[string][]string{"printed: took 2 of nightly 2": {"@" + file},
		"printed: took 2 of now 2": {"name=now", "@" + file}} {
		if code, out, errs := run(t.Context(), "", words...); code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("%q: exit code %d, %q, %q", words, code, out, errs)
		}
	}
	if err := os.WriteFile(file, []byte(`["/dat"]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + ".none", filepath.Dir(file), ""} {
		if code, out, errs := run(t.Context(), "", "@"+path, "volumes=/dat"); code != 2 || out != "" ||
			!strings.Contains(errs, "arguments in "+path) {
			t.Errorf("%q: exit code %d, %q, %q", path, code, out, errs)
		}
	}
}
