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

// Program is a Module without its type parameter, so that one executable file can hold several. See Module for the
// fields.
type Program struct {
	name, summary, examples string

	defaults func() any // returns a pointer to a struct of arguments
	validate func(a any) error
	run      func(ctx context.Context, c Call, a any) (Result, error)
	print    func(w io.Writer, r Result)
	internal map[string]func(ctx context.Context, args []string) int
}

// arguments returns the arguments of the program, and the struct of their defaults.
func (p Program) arguments() ([]argument, reflect.Value) {
	defaults := reflect.ValueOf(p.defaults()).Elem()
	return arguments(defaults.Type()), defaults
}

// Main runs one of several programs that share one executable file, and exits. It runs the program with whose name the
// file's name ends, or else the one that the first word names, or else the one that has the first word as an internal
// command, which is how a systemd unit calls a copy of the file.
//
// SIGINT, SIGTERM and SIGHUP end the context, and a second such signal ends the process. If the reader of the output is
// gone (SIGPIPE), the work goes on.
func Main(programs ...Program) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // not signal.Ignore, which child processes would inherit
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	program, argv := chooseProgram(programs, os.Args)
	if program == nil {
		const usage = "usage: call this file by one of its names, or with one as its first word: "
		fmt.Fprintln(os.Stderr, usage+programNames(programs))
		os.Exit(2)
	}
	os.Exit(program.Exec(ctx, argv, os.Stdin, os.Stdout, os.Stderr))
}

// chooseProgram returns the program that argv calls and the argv for it, and nil if argv calls none of the programs.
func chooseProgram(programs []Program, argv []string) (*Program, []string) {
	if len(argv) == 0 {
		return nil, nil
	}
	for i := range programs {
		if strings.HasSuffix(filepath.Base(argv[0]), programs[i].name) { // Ansible's copy is called AnsiballZ_lvm_merge
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

func programNames(programs []Program) string {
	var names []string
	for _, p := range programs {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}
