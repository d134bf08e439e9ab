package ansible

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Exec runs the program with the words argv, of which argv[0] is the program's name. It returns the exit code: 0 for
// success, 1 for failure, and 2 if a person has given wrong arguments. Only a person's call writes to stderr.
func (p Program) Exec(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	words := argv[min(1, len(argv)):]
	if len(words) > 0 && p.internal[words[0]] != nil {
		return p.internal[words[0]](ctx, words[1:])
	}
	in := readInput(words, stdin)
	list, defaults := p.arguments()
	switch in.show {
	case "help":
		return exitCodeOfWrite(fmt.Fprint(stdout, p.help(list, defaults)))
	case "document":
		return exitCodeOfWrite(fmt.Fprintln(stdout, p.Document().json()))
	case "version":
		return exitCodeOfWrite(fmt.Fprintln(stdout, p.name, Version()))
	}
	if in.call.Hand {
		in.call.Progress, in.call.Terminal = stderr, isTerminal(stderr)
	}
	in.call.Given = in.given
	in.call.hidden = new(mask)
	in.call.hidden.addArguments(list, in.given)
	var r Result
	exception, err := recoverPanic(func() (err error) {
		r, err = p.decodeAndRun(ctx, in, list)
		return err
	})
	o := outcome{name: p.name, in: in, result: r, err: fault.Of(err), exception: exception, arguments: list}
	if in.jsonOutput {
		return o.writeObject(stdout)
	}
	return o.writeText(stdout, stderr, p.print)
}

// decodeAndRun decodes and validates the arguments, and runs the module if they are right.
func (p Program) decodeAndRun(ctx context.Context, in input, list []argument) (Result, error) {
	errs, a := in.errs, p.defaults()
	if in.given != nil {
		errs = append(errs, fault.Each(Decode(in.given, a))...)
		errs = append(errs, unrelatedErrors(list, fault.Each(p.validate(a)), errs)...)
	}
	if err := fault.All(errs...); err != nil {
		return Result{}, err
	}
	return p.run(ctx, in.call, a)
}

// unrelatedErrors returns those errors of Validate that do not follow from errors already reported. An argument that
// could not be decoded has its default value, and an argument is missing if its name was misspelt: what Validate found
// about these two is dropped. So is what depends on a choice that is wrong.
func unrelatedErrors(list []argument, found, reported []error) []error {
	if len(reported) == 0 {
		return found
	}
	known := argumentNames(list, true)
	named := namedArguments(reported...)
	for _, name := range named {
		if a, ok := findArgument(list, nearest(name, known)); ok {
			named = append(named, a.name)
		}
	}
	return slices.DeleteFunc(found, func(err error) bool {
		concerned := namedArguments(err)
		return len(concerned) == 0 || slices.ContainsFunc(concerned, func(name string) bool {
			return slices.Contains(named, name)
		})
	})
}

// namedArguments returns the names of the arguments that errs are about, without any part inside the argument (volumes
// for volumes[0].size), and of those that they depend on.
func namedArguments(errs ...error) []string {
	var all []string
	for _, err := range errs {
		var choice dependsOn
		if errors.As(err, &choice) {
			all = append(all, string(choice))
		}
		list, _ := fault.Of(err).Facts[argumentsFact].([]Wrong)
		for _, w := range list {
			root, _, _ := strings.Cut(w.Name, ".")
			root, _, _ = strings.Cut(root, "[")
			all = append(all, root)
		}
	}
	return all
}

// recoverPanic calls f and turns a panic into fault.Internal. exception is the panic with the calls that led to it.
func recoverPanic(f func() error) (exception string, err error) {
	defer func() {
		if p := recover(); p != nil {
			exception = fmt.Sprintf("panic: %v\n%s", p, panicFrames(string(debug.Stack())))
			err = fault.New(fault.Internal, "a defect of this program: %v", p).
				WithHint("what was begun may not be finished: run it again, and report this with the exception")
		}
	}()
	return "", f()
}

// panicFrames returns the innermost calls of a stack, from the one that panicked on. Each takes two lines.
func panicFrames(stack string) string {
	const maxLines = 24
	lines := strings.Split(strings.TrimSpace(stack), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "panic(") && i+2 < len(lines) {
			lines = lines[i+2:]
			break
		}
	}
	return strings.Join(lines[:min(maxLines, len(lines))], "\n")
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// exitCodeOfWrite returns the exit code of a call whose only work was a write, given the results of that write.
func exitCodeOfWrite(_ int, err error) int {
	if err != nil {
		return 1
	}
	return 0
}
