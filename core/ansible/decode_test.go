package ansible_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
)

// wantMapping is the problem with a text that is no mapping.
const wantMapping = "must be a mapping: JSON, or words such as key=value,key=value, each key once"

// decode decodes a JSON object into the sample's defaults.
func decode(t *testing.T, object string) (sample, error) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	var raw map[string]any
	if err := d.Decode(&raw); err != nil {
		t.Fatal(err)
	}
	a := module().Defaults()
	return a, ansible.Decode(raw, &a)
}

// field returns the value of the sample's field that has a name.
func field(a sample, name string) any {
	v := reflect.ValueOf(a).FieldByName(name)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return v.Interface()
}

const listHint = `; a list with mappings is written '["/dat", {"path": "/boot", "snapshot": false}]'`

func TestDecodeReadsEveryForm(t *testing.T) {
	tests := []struct {
		object string
		field  string
		want   any
	}{
		{`{"keep": 6}`, "Keep", 6},
		{`{"keep": "6"}`, "Keep", 6},
		{`{"keep": " -6 "}`, "Keep", -6},
		{`{"keep": 0}`, "Keep", 0},
		{`{"small": "-128"}`, "Small", int8(-128)},
		{`{"port": "+65535"}`, "Port", uint16(65535)},
		{`{"ratio": "0.5"}`, "Ratio", 0.5},
		{`{"ratio": 1e3}`, "Ratio", 1000.0},
		{`{"wait": "no"}`, "Wait", false},
		{`{"wait": "Off"}`, "Wait", false},
		{`{"wait": 0}`, "Wait", false},
		{`{"wait": false}`, "Wait", false},
		{`{"wait": "yes"}`, "Wait", true},
		{`{"wait": null}`, "Wait", true},
		{`{"name": 2024}`, "Name", "2024"},
		{`{"name": 1.10}`, "Name", "1.10"},
		{`{"name": " a "}`, "Name", " a "},
		{`{"name": ""}`, "Name", ""},
		{`{"name": "[a]"}`, "Name", "[a]"},
		{`{"timeout": 90}`, "Timeout", 90 * time.Second},
		{`{"timeout": "90"}`, "Timeout", 90 * time.Second},
		{`{"timeout": "1h30m"}`, "Timeout", 90 * time.Minute},
		{`{"timeout": "0"}`, "Timeout", time.Duration(0)},
		{`{"services": "x, y,"}`, "Services", []string{"x", "y"}},
		{`{"services": ["x"]}`, "Services", []string{"x"}}, // replaces the three of the default
		{`{"services": []}`, "Services", []string{}},
		{`{"services": ""}`, "Services", []string{}},
		{`{"services": 5}`, "Services", []string{"5"}},
		{`{"services": "[\"x\", 2]"}`, "Services", []string{"x", "2"}},
		{`{"services": null}`, "Services", []string{"a", "b", "c"}},
		{`{"service": "x"}`, "Services", []string{"x"}},
		{`{"service": "x", "services": null}`, "Services", []string{"x"}},
		{`{"environment": {"B": 2}}`, "Environment", map[string]string{"B": "2"}},
		{`{"environment": "{\"B\": \"2\"}"}`, "Environment", map[string]string{"B": "2"}},
		{`{"environment": "B=2, C=x=y"}`, "Environment", map[string]string{"B": "2", "C": "x=y"}},
		{`{"anything": [1, {"a": true}]}`, "Anything", []any{json.Number("1"), map[string]any{"a": true}}},
		{`{"volumes": "/dat, vg00/home"}`, "Volumes", []volume{{Path: "/dat"}, {Path: "vg00/home"}}},
		{`{"volume": {"vg": "vg00"}}`, "Volumes", []volume{{VG: "vg00"}}},
		{
			`{"volumes": ["/dat", {"vg": "vg00", "lv": "home", "size": "10", "options": "ro,noatime"}]}`, "Volumes",
			[]volume{{Path: "/dat"}, {VG: "vg00", LV: "home", Size: 10, Options: []string{"ro", "noatime"}}},
		},
		{`{"volumes": "{\"vg\": \"vg00\"}"}`, "Volumes", []volume{{VG: "vg00"}}},
	}
	for _, tt := range tests {
		t.Run(tt.object, func(t *testing.T) {
			a, err := decode(t, tt.object)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, field(a, tt.field)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeNamesEveryWrongArgument(t *testing.T) {
	const none = "there is no such argument"
	tests := []struct {
		object string
		want   []ansible.Wrong
	}{
		{`{"keep": 1.0}`, []ansible.Wrong{{"keep", "must be a whole number"}}},
		{`{"keep": "1.9"}`, []ansible.Wrong{{"keep", "must be a whole number"}}},
		{`{"keep": true}`, []ansible.Wrong{{"keep", "must be a whole number, not true or false"}}},
		{`{"keep": ""}`, []ansible.Wrong{{"keep", "must be a whole number"}}},
		{`{"keep": "0644"}`, []ansible.Wrong{{"keep", "must not begin with 0, which could mean an octal number"}}},
		{`{"keep": [1]}`, []ansible.Wrong{{"keep", "must be one value, not a list"}}},
		{`{"small": 128}`, []ansible.Wrong{{"small", "is out of range"}}},
		{`{"port": 65536}`, []ansible.Wrong{{"port", "is out of range"}}},
		{`{"port": -1}`, []ansible.Wrong{{"port", "must be a whole number, not below 0"}}},
		{`{"ratio": "NaN"}`, []ansible.Wrong{{"ratio", "must be a number"}}},
		{`{"ratio": false}`, []ansible.Wrong{{"ratio", "must be a number, not true or false"}}},
		{`{"wait": "perhaps"}`, []ansible.Wrong{{"wait", "must be true or false"}}},
		{`{"wait": 2}`, []ansible.Wrong{{"wait", "must be true or false"}}},
		{`{"name": true}`, []ansible.Wrong{{"name", "must be text, not yes or no: quote it in YAML"}}},
		{`{"name": {}}`, []ansible.Wrong{{"name", "must be one value, not a mapping"}}},
		{`{"timeout": 1.5}`, []ansible.Wrong{{"timeout", "must be whole seconds, or a time such as 90s or 1h30m"}}},
		{`{"timeout": -1}`, []ansible.Wrong{{"timeout", "must not be below 0"}}},
		{`{"timeout": "-1s"}`, []ansible.Wrong{{"timeout", "must not be below 0"}}},
		{`{"timeout": 9223372037}`, []ansible.Wrong{{"timeout", "is out of range"}}},
		{`{"services": ["a", null]}`, []ansible.Wrong{{"services[1]", "is empty"}}},
		{`{"services": ["a", ["b"]]}`, []ansible.Wrong{{"services[1]", "must be one value, not a list"}}},
		{`{"services": "[\"a"}`, []ansible.Wrong{{"services", "is no valid JSON: it ends too early" + listHint}}},
		{`{"services": "[a]"}`, []ansible.Wrong{{"services", "is no valid JSON: wrong at byte 2" + listHint}}},
		{`{"services": "[1] [2]"}`, []ansible.Wrong{{"services", "is no valid JSON: something follows its end at byte 5" +
			listHint}}},
		{`{"environment": ""}`, []ansible.Wrong{{"environment", wantMapping}}},
		{`{"environment": "A"}`, []ansible.Wrong{{"environment", wantMapping}}},
		{`{"environment": "A=1,B"}`, []ansible.Wrong{{"environment", wantMapping}}},
		{`{"environment": "A=1,A=2"}`, []ansible.Wrong{{"environment", wantMapping}}},
		{`{"environment": {"A": null, "B": []}}`, []ansible.Wrong{
			{"environment.A", "is empty"}, {"environment.B", "must be one value, not a list"},
		}},
		{`{"state": "presnt"}`, []ansible.Wrong{{"state",
			`"presnt" is none of present, absent, mounted, did you mean present?`}}},
		{`{"state": "xyz"}`, []ansible.Wrong{{"state", `"xyz" is none of present, absent, mounted`}}},
		{`{"services": "a", "service": "b"}`, []ansible.Wrong{{"services",
			"is also given as service, which means the same"}}},
		{`{"serivces": 1, "vol": 1, "zzz": 1, "Name": 1}`, []ansible.Wrong{
			{"Name", none + ", did you mean name?"}, {"serivces", none + ", did you mean services?"},
			{"vol", none + ", did you mean volumes?"}, {"zzz", none},
		}},
		{`{"Untagged": "x", "Act": 1}`, []ansible.Wrong{{"Act", none + ", did you mean act?"}, {"Untagged", none}}},
		{`{"volumes": [5]}`, []ansible.Wrong{{"volumes[0]", "must be a mapping, not a number"}}},
		{`{"keep": "x", "volumes": ["/dat", {"sise": 1, "size": "x", "options": ["ro", "rw"]}], "port": "y"}`,
			[]ansible.Wrong{
				{"volumes[1].size", "must be a whole number"},
				{"volumes[1].options[1]", `"rw" is none of ro, noatime, did you mean ro?`},
				{"volumes[1].sise", none + ", did you mean size?"},
				{"keep", "must be a whole number"},
				{"port", "must be a whole number, not below 0"},
			}},
	}
	for _, tt := range tests {
		t.Run(tt.object, func(t *testing.T) {
			_, err := decode(t, tt.object)
			f := fault.Of(err)
			if f == nil || f.Code != fault.BadArguments {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, f.Facts["arguments"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeRefusesOtherThanMappings(t *testing.T) {
	for _, raw := range []any{nil, "text", true, []any{}, json.Number("1")} {
		var v volume
		if err := ansible.Decode(raw, &v); err == nil || !strings.HasPrefix(err.Error(), "must be a mapping, not ") {
			t.Errorf("%v: %v", raw, err)
		}
	}
	if err := ansible.Decode(map[string]any{}, volume{}); fault.Of(err).Code != fault.Internal {
		t.Errorf("decodes into a copy: %v", err)
	}
}

// FuzzDecode searches for arguments at which Decode panics, fails without fault.BadArguments, or gives different
// results from time to time.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"volumes": ["/dat", {"vg": "a", "size": "1"}], "keep": 3, "timeout": "1m"}`,
		`{"environment": "{\"a\": 1}", "services": "a,b", "wait": "on", "small": -1, "ratio": 0.1}`,
		`{"password": ["canary"], "tokens": "canary", "port": "canary", "volumes": [{"key": {"canary": 1}}]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, object string) {
		d := json.NewDecoder(strings.NewReader(object))
		d.UseNumber()
		var raw map[string]any
		if d.Decode(&raw) != nil {
			return
		}
		a, b := module().Defaults(), module().Defaults()
		err := ansible.Decode(raw, &a)
		if err != nil {
			if f := fault.Of(err); f.Code != fault.BadArguments {
				t.Fatalf("%s: %v", f.Code, err)
			}
			return
		}
		if err := ansible.Decode(raw, &b); err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("once %v, then %v (%v)", a, b, err)
		}
	})
}

func TestDifferingNamesChangedArguments(t *testing.T) {
	type inner struct {
		Wait bool     `mapstructure:"wait"`
		List []string `mapstructure:"list"`
	}
	type outer struct {
		Name  string `mapstructure:"name"`
		inner `mapstructure:",squash"`
	}
	a := outer{Name: "a", inner: inner{List: []string{"x"}}}
	if got := ansible.Differing(a, a); got != nil {
		t.Errorf("the same differ in %v", got)
	}
	if diff := cmp.Diff([]string{"name", "list"}, ansible.Differing(a, outer{})); diff != "" {
		t.Error(diff)
	}
}
