package ansible

import (
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// Exec runs the module as the words argv say, argv[0] being the program's name,
// and returns the exit code: 0, 1 on failure, and 2 where a person's words are
// wrong. Nothing is written to stderr unless a person reads it.
func (m Module[A]) Exec(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	words := argv[min(1, len(argv)):]
	if len(words) > 0 && m.Internal[words[0]] != nil {
		return m.Internal[words[0]](ctx, words[1:])
	}
	in := readInput(words, stdin)
	defaults := m.Defaults()
	list := arguments(reflect.TypeOf(defaults))
	switch in.show {
	case "help":
		return written(fmt.Fprint(stdout, m.help(list, reflect.ValueOf(defaults))))
	case "version":
		return written(fmt.Fprintln(stdout, m.Name, Version()))
	}
	if in.call.Hand {
		in.call.Progress, in.call.Terminal = stderr, terminal(stderr)
	}
	in.call.hidden = new(mask)
	in.call.hidden.learn(list, in.given)
	var r Result
	exception, err := guarded(func() (err error) {
		r, err = m.run(ctx, in, defaults)
		return err
	})
	o := outcome{name: m.Name, in: in, result: r, err: fault.Of(err), exception: exception, arguments: list}
	if in.object {
		return o.writeObject(stdout)
	}
	return o.writeText(stdout, stderr, m.Print)
}

// run decodes, validates and does the work.
func (m Module[A]) run(ctx context.Context, in input, a A) (Result, error) {
	wrong := in.wrong
	if in.given != nil {
		wrong = append(wrong, fault.Each(Decode(in.given, &a))...)
	}
	if m.Validate != nil && in.given != nil {
		wrong = append(wrong, others(arguments(reflect.TypeOf(a)), fault.Each(m.Validate(a)), wrong)...)
	}
	if err := fault.All(wrong...); err != nil {
		return Result{}, err
	}
	return m.Run(ctx, in.call, a)
}

// others returns the errors of Validate that are not owed to what is wrong
// already: a wrong argument holds its default, and under a misspelt name another
// one was meant.
func others(list []argument, found, wrong []error) []error {
	if len(wrong) == 0 {
		return found
	}
	known := names(list, true)
	blamed := blames(wrong...)
	for _, name := range blamed {
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
