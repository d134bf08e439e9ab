package ansible

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Exec runs the program as the words argv say, argv[0] being the program's name,
// and returns the exit code: 0, 1 on failure, and 2 where a person's words are
// wrong. Nothing is written to stderr unless a person reads it.
func (p Program) Exec(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	words := argv[min(1, len(argv)):]
	if len(words) > 0 && p.internal[words[0]] != nil {
		return p.internal[words[0]](ctx, words[1:])
	}
	in := readInput(words, stdin)
	list, defaults := p.arguments()
	switch in.show {
	case "help":
		return written(fmt.Fprint(stdout, p.help(list, defaults)))
	case "document":
		return written(fmt.Fprintln(stdout, p.Document().json()))
	case "version":
		return written(fmt.Fprintln(stdout, p.name, Version()))
	}
	if in.call.Hand {
		in.call.Progress, in.call.Terminal = stderr, terminal(stderr)
	}
	in.call.Given = in.given
	in.call.hidden = new(mask)
	in.call.hidden.learn(list, in.given)
	var r Result
	exception, err := guarded(func() (err error) {
		r, err = p.work(ctx, in, list)
		return err
	})
	o := outcome{name: p.name, in: in, result: r, err: fault.Of(err), exception: exception, arguments: list}
	if in.object {
		return o.writeObject(stdout)
	}
	return o.writeText(stdout, stderr, p.print)
}

// work decodes, validates and does the work.
func (p Program) work(ctx context.Context, in input, list []argument) (Result, error) {
	wrong, a := in.wrong, p.defaults()
	if in.given != nil {
		wrong = append(wrong, fault.Each(Decode(in.given, a))...)
		wrong = append(wrong, others(list, fault.Each(p.validate(a)), wrong)...)
	}
	if err := fault.All(wrong...); err != nil {
		return Result{}, err
	}
	return p.run(ctx, in.call, a)
}

// others returns the errors of Validate that are not owed to what is wrong
// already: a wrong argument holds its default, and under a misspelt name another
// one was meant. Where a choice is wrong, what goes with it cannot be judged.
func others(list []argument, found, wrong []error) []error {
	if len(wrong) == 0 {
		return found
	}
	known := names(list, true)
	blamed := blames(wrong...)
	for _, name := range blamed {
		if a, ok := find(list, name); ok && len(a.choices) > 0 {
			return nil
		}
		if a, ok := find(list, nearest(name, known)); ok {
			blamed = append(blamed, a.name)
		}
	}
	return slices.DeleteFunc(found, func(err error) bool {
		about := blames(err)
		return len(about) == 0 || slices.ContainsFunc(about, func(name string) bool { return slices.Contains(blamed, name) })
	})
}

// blames returns the arguments that errs name, without what is inside them:
// volumes for volumes[0].size.
func blames(errs ...error) []string {
	var all []string
	for _, err := range errs {
		list, _ := fault.Of(err).Facts[wrongs].([]Wrong)
		for _, w := range list {
			root, _, _ := strings.Cut(w.Name, ".")
			root, _, _ = strings.Cut(root, "[")
			all = append(all, root)
		}
	}
	return all
}

// guarded turns a panic of f into an internal fault, with where it came from.
func guarded(f func() error) (exception string, err error) {
	defer func() {
		if p := recover(); p != nil {
			exception = fmt.Sprintf("panic: %v\n%s", p, frames(string(debug.Stack())))
			err = fault.New(fault.Internal, "a defect of this program: %v", p).
				WithHint("what was begun may not be finished: run it again, and report this with the exception")
		}
	}()
	return "", f()
}

// frames returns the first calls below the panic, two lines each.
func frames(stack string) string {
	const most = 24
	lines := strings.Split(strings.TrimSpace(stack), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "panic(") && i+2 < len(lines) {
			lines = lines[i+2:]
			break
		}
	}
	return strings.Join(lines[:min(most, len(lines))], "\n")
}

func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// written is the exit code after a write that is all there was to do.
func written(_ int, err error) int {
	if err != nil {
		return 1
	}
	return 0
}
