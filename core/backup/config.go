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

// Decode fills the struct that into points to from the options. The fields of the struct have the tags of package
// ansible. An option that is absent or null leaves its field unchanged. Fault: bad_arguments, which names every option
// that is wrong.
func (c Config) Decode(into any) error {
	data, err := json.Marshal(c.Options)
	if err != nil {
		return fault.New(fault.BadArguments, "the backend's options are not fit for JSON: %w", err)
	}
	// A number may be a float64 or another type, depending on the decoder that read it. Decoding the JSON again with
	// UseNumber gives each number as it was written.
	options := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&options); err != nil {
		return fault.New(fault.Internal, "read the backend's options again: %w", err)
	}
	if options == nil {
		return nil // nil Options are null in JSON
	}
	return ansible.Decode(options, into)
}

// Environ returns Environment as KEY=VALUE, sorted by key.
func (c Config) Environ() []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(c.Environment)) {
		list = append(list, key+"="+c.Environment[key])
	}
	return list
}

// Hide returns text with the values of Environment masked. It is for the output of a tool, which may contain secrets.
func (c Config) Hide(text string) string {
	return ansible.Hide(slices.Collect(maps.Values(c.Environment))...).Text(text)
}

// Missing returns not_found for every root of the tree that does not exist. A tool might leave such a root out and
// still report success.
func (t Tree) Missing() error {
	var missing []error
	for _, root := range t.Roots {
		if _, err := os.Lstat(root); err != nil {
			missing = append(missing, fault.New(fault.NotFound, "what is to be stored is not there: %w", err))
		}
	}
	return fault.All(missing...)
}
