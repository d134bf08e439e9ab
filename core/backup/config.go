package backup

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
)

// Decode fills the struct that into points to from the options; its fields carry the tags of package ansible. An option
// that is absent or null leaves its field alone. The error is bad_arguments and names every option that is wrong.
func (c Config) Decode(into any) error {
	data, err := json.Marshal(c.Options)
	if err != nil {
		return fault.New(fault.BadArguments, "the backend's options are not fit for JSON: %w", err)
	}
	// Numbers may have come as float64, depending on the way; they are to be read as they were written.
	exact := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&exact); err != nil {
		return fault.New(fault.Internal, "read the backend's options again: %w", err)
	}
	if exact == nil {
		return nil // no options at all are null
	}
	return ansible.Decode(exact, into)
}

// Environ returns the environment as KEY=VALUE, in the order of the keys.
func (c Config) Environ() []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(c.Environment)) {
		list = append(list, key+"="+c.Environment[key])
	}
	return list
}

// Hide returns text without the environment's values: what a tool says is not to carry a secret on.
func (c Config) Hide(text string) string {
	return ansible.Hide(slices.Collect(maps.Values(c.Environment))...).Text(text)
}

// Missing names every root of the tree that is not there: a tool may leave it out and say that all is well.
func (t Tree) Missing() error {
	var missing []error
	for _, root := range t.Roots {
		if _, err := os.Lstat(root); err != nil {
			missing = append(missing, fault.New(fault.NotFound, "what is to be stored is not there: %w", err))
		}
	}
	return fault.All(missing...)
}
