package ansible

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"go.pcc.com/rewind/core/command"
)

// Result is what a module did. In JSON it is one flat object: the keys of Data
// beside changed, msg, diff, warnings and commands, which win.
type Result struct {
	Changed  bool
	Msg      string
	Data     map[string]any
	Diff     *Diff
	Warnings []string
	Commands []command.Record
}

// Diff is a text before and after, as Ansible shows it.
type Diff struct {
	Before       string `json:"before"`
	After        string `json:"after"`
	BeforeHeader string `json:"before_header,omitempty"`
	AfterHeader  string `json:"after_header,omitempty"`
}

// fixed are the keys that a Result has of its own.
type fixed struct {
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

// UnmarshalJSON reads the flat object. Numbers in Data are json.Number, which
// loses no byte of a large size.
func (r *Result) UnmarshalJSON(data []byte) error {
	var own fixed
	if err := json.Unmarshal(data, &own); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var rest map[string]any
	if err := d.Decode(&rest); err != nil {
		return err
	}
	for _, key := range []string{"changed", "msg", "diff", "warnings", "commands"} {
		delete(rest, key)
	}
	*r = Result{own.Changed, own.Msg, rest, own.Diff, own.Warnings, own.Commands}
	return nil
}

// Into fills the struct that v points to from Data by its json tags, for Print:
// Data may hold typed values or what came back out of JSON.
func (r Result) Into(v any) error {
	data, err := json.Marshal(r.Data)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return json.Unmarshal(data, v)
}
