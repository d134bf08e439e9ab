package ansible

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"go.pcc.com/rewind/core/command"
)

// Result says what a module did. In JSON it is one flat object: the keys of Data beside the keys changed, msg, diff,
// warnings and commands. If Data has one of these five keys, too, it is left out.
type Result struct {
	Changed  bool
	Msg      string
	Data     map[string]any
	Diff     *Diff
	Warnings []string
	Commands []command.Record
}

// Diff is a text before and after a change, in the form that Ansible shows.
type Diff struct {
	Before       string `json:"before"`
	After        string `json:"after"`
	BeforeHeader string `json:"before_header,omitempty"`
	AfterHeader  string `json:"after_header,omitempty"`
}

// ownKeys are the keys of a Result in JSON that do not come from Data.
type ownKeys struct {
	Changed  bool             `json:"changed"`
	Msg      string           `json:"msg"`
	Diff     *Diff            `json:"diff"`
	Warnings []string         `json:"warnings"`
	Commands []command.Record `json:"commands"`
}

// object returns the flat object.
func (r Result) object() map[string]any {
	o := make(map[string]any, len(r.Data)+5)
	maps.Copy(o, r.Data)
	o["changed"], o["msg"] = r.Changed, r.Msg
	if r.Diff != nil {
		o["diff"] = r.Diff
	}
	if len(r.Warnings) > 0 {
		o["warnings"] = r.Warnings
	}
	if len(r.Commands) > 0 {
		o["commands"] = r.Commands
	}
	return o
}

// MarshalJSON writes the flat object.
func (r Result) MarshalJSON() ([]byte, error) { return json.Marshal(r.object()) }

// UnmarshalJSON parses the flat object. Numbers in Data become json.Number, which keeps large sizes exact.
func (r *Result) UnmarshalJSON(text []byte) error {
	var own ownKeys
	if err := json.Unmarshal(text, &own); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var data map[string]any
	if err := d.Decode(&data); err != nil {
		return err
	}
	for _, key := range []string{"changed", "msg", "diff", "warnings", "commands"} {
		delete(data, key)
	}
	*r = Result{own.Changed, own.Msg, data, own.Diff, own.Warnings, own.Commands}
	return nil
}

// Into fills the struct to which v points from Data, by its json tags. It is for Print: Data may hold either typed
// values or what UnmarshalJSON has made of them. The error is no fault.
func (r Result) Into(v any) error {
	data, err := json.Marshal(r.Data)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return json.Unmarshal(data, v)
}
