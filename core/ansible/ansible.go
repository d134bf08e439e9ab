// Package ansible makes a program of a module: arguments in, one JSON object out
// for Ansible; words in and text out for a person.
//
// It promises that a module's Run sees only arguments that are known, complete
// and of their type; that every wrong one is named at once; that a panic is a
// failed result; and that no secret is in anything that is written.
package ansible

import (
	"context"
	"io"
	"time"
)

// Module is a program that Ansible or a person runs.
type Module[A any] struct {
	Name    string
	Summary string // one sentence for --help

	// Defaults returns the arguments as they are when none is given. A is a
	// struct; a field with a mapstructure tag is an argument, others are not.
	// Further tags: doc (a sentence for --help), choices ("a,b"), alias ("a,b"),
	// keys (of a mapping, "a,b", for who gives one as an argument)
	// and secret ("true": its values are never written). ",squash" embeds
	// another struct's arguments. A type of its own way to be written
	// implements ArgDecoder.
	Defaults func() A

	// Validate says what is wrong with a; nil if all is well. What is wrong with
	// one argument is said with Bad, several by fault.All. Arguments that could
	// not be decoded hold their defaults, and what Validate says of them is
	// dropped.
	Validate func(a A) error

	// Run does the work. On an error the Result says what was done until then.
	Run func(ctx context.Context, c Call, a A) (Result, error)

	// Print shows a result to a person; nil: only Msg is shown.
	Print func(w io.Writer, r Result)

	// Examples ends the text of --help.
	Examples string

	// Internal holds what the program does when its first word is one of these,
	// whatever follows. It returns the exit code. They are not in --help.
	Internal map[string]func(ctx context.Context, args []string) int
}

// Call is how a module was called, beside its arguments.
type Call struct {
	Check     bool // say what would be done, and do nothing
	Diff      bool // show what changes
	Hand      bool // a person reads the output
	Verbosity int  // Ansible's, 0 to 5
	Terminal  bool // Progress is a terminal

	// Patience is how long the caller waits for what takes long before it asks again; 0: until the end.
	Patience time.Duration

	// Given are the arguments as they were given: what JSON or words held, secrets with them.
	Given map[string]any

	// Progress takes what is shown while the work goes on: a person's stderr,
	// nothing under Ansible, whose output must stay one object.
	Progress io.Writer

	hidden *mask
}

// Secret hides values in everything that the module writes from now on, as the
// secret tag does for arguments: for what is read from files.
func (c Call) Secret(values ...string) {
	if c.hidden != nil {
		c.hidden.add(values...)
	}
}

// Program returns the module as a program of no particular arguments, for Main.
func (m Module[A]) Program() Program {
	return Program{
		name: m.Name, summary: m.Summary, examples: m.Examples, print: m.Print, internal: m.Internal,
		defaults: func() any { a := m.Defaults(); return &a },
		validate: func(a any) error {
			if m.Validate == nil {
				return nil
			}
			return m.Validate(*a.(*A))
		},
		run: func(ctx context.Context, c Call, a any) (Result, error) { return m.Run(ctx, c, *a.(*A)) },
	}
}
