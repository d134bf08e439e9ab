// Package ansible turns a module into a program. Called by Ansible, the program reads a JSON object of arguments and
// writes one JSON object; called by a person, it reads words such as name=snap and writes text.
//
// It guarantees that Run of a module is called only with arguments that are known, complete and of the right type; that
// all wrong arguments are named at once; that a panic becomes a failed result; and that nothing the program writes
// contains a secret.
package ansible

import (
	"context"
	"io"
	"time"
)

// Module describes a program that Ansible or a person runs. A is the struct of its arguments.
type Module[A any] struct {
	Name    string
	Summary string // one sentence for --help

	// Defaults returns the values of the arguments if none is given. Each field of A with a mapstructure tag is an
	// argument; other fields are not. These tags may be added: doc (a sentence for --help), choices ("a,b"), alias
	// ("a,b"), secret ("true": the values are never written), and, for a mapping, keys ("a,b": keys that it usually
	// has; whoever gives one of them as an argument is told to put it in the mapping). ",squash" embeds the arguments
	// of another struct. A type that is written in a form of its own implements ArgDecoder.
	Defaults func() A

	// Validate returns what is wrong with the arguments, and nil if nothing is: an error of Bad for one argument,
	// fault.All for several. An argument that could not be decoded has its default value, and errors of Validate about
	// it are dropped. Nil: there is nothing to check.
	Validate func(a A) error

	// Run does the work. If it returns an error, the Result says what was done until then.
	Run func(ctx context.Context, c Call, a A) (Result, error)

	// Print writes a result for a person. Nil: only Msg is written.
	Print func(w io.Writer, r Result)

	// Examples are command lines, written at the end of --help.
	Examples string

	// Internal holds commands that are not in --help: if the program's first word is one of these names, the function is
	// called with the words that follow, and returns the exit code.
	Internal map[string]func(ctx context.Context, args []string) int
}

// Call says how a module was called, apart from its arguments.
type Call struct {
	Check     bool // only say what would be done
	Diff      bool // show what changes
	Hand      bool // called by hand: a person reads the output
	Verbosity int  // of Ansible, 0 to 5
	Terminal  bool // Progress is a terminal

	// Patience is how long the caller waits for an answer before it calls the program again. 0: until the work is done.
	Patience time.Duration

	// Given holds the arguments as they were given, in JSON or as words, including secrets.
	Given map[string]any

	// Progress is for what is shown while the work goes on. For a person it is stderr. Under Ansible it discards
	// everything, because the output must be one JSON object.
	Progress io.Writer

	hidden *mask
}

// Secret hides the values in everything that the program writes from now on, as the secret tag does for arguments. It
// is for secrets that were read from files.
func (c Call) Secret(values ...string) {
	if c.hidden != nil {
		c.hidden.add(values...)
	}
}

// Program returns the module as a Program, whose type does not depend on the arguments, for Main.
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
