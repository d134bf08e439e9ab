package ansible

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
)

// Program is a Module, whatever its arguments. One that serves several is built
// once for all of them.
type Program struct {
	name, summary, examples string

	defaults func() any // a pointer to a struct of arguments
	validate func(a any) error
	run      func(ctx context.Context, c Call, a any) (Result, error)
	print    func(w io.Writer, r Result)
	internal map[string]func(ctx context.Context, args []string) int
}

// arguments returns what the program takes, and the defaults.
func (p Program) arguments() ([]argument, reflect.Value) {
	defaults := reflect.ValueOf(p.defaults()).Elem()
	return arguments(defaults.Type()), defaults
}

// Main runs one of several programs that are one file, and exits: the one whose
// name ends that which the file was called by, or that the first word names, or that has the first
// word among its internal commands, which is how a unit of systemd calls a copy of
// the file. SIGINT, SIGTERM and SIGHUP end the context; a second one ends the
// process. A reader of the output that is gone does not: the work goes on.
func Main(programs ...Program) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // not Ignore: children would inherit that
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	program, argv := choose(programs, os.Args)
	if program == nil {
		fmt.Fprintln(os.Stderr, "usage: call this file by one of its names, or with one as its first word: "+named(programs))
		os.Exit(2)
	}
	os.Exit(program.Exec(ctx, argv, os.Stdin, os.Stdout, os.Stderr))
}

// choose returns the program that argv means, and its own argv; nil: none.
func choose(programs []Program, argv []string) (*Program, []string) {
	if len(argv) == 0 {
		return nil, nil
	}
	for i := range programs {
		if strings.HasSuffix(filepath.Base(argv[0]), programs[i].name) { // Ansible calls it AnsiballZ_lvm_merge
			return &programs[i], argv
		}
	}
	if len(argv) == 1 {
		return nil, nil
	}
	for i := range programs {
		if programs[i].name == argv[1] {
			return &programs[i], argv[1:]
		}
	}
	for i := range programs {
		if programs[i].internal[argv[1]] != nil {
			return &programs[i], argv
		}
	}
	return nil, nil
}

func named(programs []Program) string {
	var names []string
	for _, p := range programs {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}
