package ansible

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// input is how the program was called and with what.
type input struct {
	call  Call
	given map[string]any // the arguments; nil if they cannot be read at all
	wrong []error        // what is wrong before any argument is looked at

	hand   bool   // a person wrote words
	object bool   // the output is one JSON object
	show   string // "help", "version" or "document", instead of the work
	noLog  bool   // the task said no_log
}

// maxArguments bounds what is read of arguments, in bytes. Ansible sends some
// hundred.
const maxArguments = 16 << 20

// readInput understands the words after the program's name. Ansible starts a
// binary module with one word, the path of a file of arguments; "-" is the same
// on stdin. Ansible removes the file when it gives up waiting, so it is read
// before anything else is done.
func readInput(words []string, stdin io.Reader) input {
	if len(words) == 1 && words[0] == "-" {
		return ansibleInput(io.ReadAll(io.LimitReader(stdin, maxArguments+1)))
	}
	if len(words) == 1 && isFile(words[0]) {
		return ansibleInput(readFile(words[0]))
	}
	return handInput(words)
}

// isFile reports whether word is Ansible's, which is always an absolute path.
// One that is gone is Ansible's too. What a person may have meant as a volume, a
// directory or a device, is not.
func isFile(word string) bool {
	if !filepath.IsAbs(word) || strings.Contains(word, "=") {
		return false
	}
	info, err := os.Stat(word)
	return err != nil || info.Mode().IsRegular()
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxArguments+1))
}

// ansibleInput reads the object that Ansible sends. Its keys with _ansible_ in
// front are Ansible's own, those known here and others.
func ansibleInput(data []byte, err error) input {
	in := input{object: true, call: Call{Progress: io.Discard}}
	given, err := object(data, err)
	if err != nil {
		in.wrong = []error{fault.New(fault.BadArguments, "the arguments cannot be read: %w", err).
			WithHint("Ansible calls a module with the path of a file that holds one JSON object; by hand, use words such as name=snap")}
		return in
	}
	in.settings(given)
	return in
}

// object is the JSON object that was read; err is what went wrong with reading.
func object(data []byte, err error) (map[string]any, error) {
	if err != nil {
		return nil, err
	}
	if len(data) > maxArguments {
		return nil, fmt.Errorf("they are longer than %d bytes", maxArguments)
	}
	v, err := parseJSON(data)
	if err != nil {
		return nil, err
	}
	given, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("they must be a JSON object, not " + kind(v))
	}
	return given, nil
}

// settings takes Ansible's own keys out of given, and the patience of this collection's action.
func (in *input) settings(given map[string]any) {
	in.given = make(map[string]any, len(given))
	for key, value := range given {
		if !strings.HasPrefix(key, "_ansible_") {
			in.given[key] = value
		}
	}
	yes := func(key string) bool {
		b, err := truth(given[key])
		return err == nil && b
	}
	in.call.Check = yes("_ansible_check_mode")
	in.call.Diff = yes("_ansible_diff")
	in.noLog = yes("_ansible_no_log")
	number := func(key string) int64 {
		n, _ := given[key].(json.Number)
		value, _ := n.Int64()
		return value
	}
	in.call.Verbosity = int(number("_ansible_verbosity"))
	in.call.Patience = time.Duration(max(number("_ansible_patience"), 0)) * time.Second
}

// flags are the words with -- that a person may use, in the order of --help.
const flags = "--check, --diff, --json, --help, --version"

// handInput reads a person's words: name=value, flags, and @FILE for arguments in a file, in any order. What is given as
// a word too, that one says.
func handInput(words []string) input {
	in := input{hand: true, given: make(map[string]any), call: Call{Progress: io.Discard}}
	filed := make(map[string]any)
	for _, word := range words {
		if strings.HasPrefix(word, "-") {
			in.flag(word)
			continue
		}
		if path, ok := strings.CutPrefix(word, "@"); ok {
			in.file(path, filed)
			continue
		}
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			in.wrong = append(in.wrong, Bad(word, "is no argument: write name=value").WithHint("--help names the arguments"))
			continue
		}
		if _, twice := in.given[name]; twice {
			in.wrong = append(in.wrong, Bad(name, "is given twice"))
			continue
		}
		in.given[name] = value
	}
	maps.Copy(filed, in.given)
	in.given = filed
	in.call.Hand = !in.object
	return in
}

// file adds the arguments of a file, which holds one JSON object.
func (in *input) file(path string, given map[string]any) {
	v, err := object(readFile(path))
	if err != nil {
		in.wrong = append(in.wrong, fault.New(fault.BadArguments, "the arguments in %s cannot be read: %w", path, err))
	}
	maps.Copy(given, v)
}

func (in *input) flag(word string) {
	switch word {
	case "--check":
		in.call.Check = true
	case "--diff":
		in.call.Diff = true
	case "--json":
		in.object = true
	case "--help", "-h":
		in.show = "help"
	case "--version":
		in.show = "version"
	case "--document": // for those who make documentation of it; not in --help
		in.show = "document"
	default:
		// What follows a = may be a secret.
		name, _, _ := strings.Cut(word, "=")
		if slices.Contains(split(flags), name) {
			in.wrong = append(in.wrong, Bad(name, "is a flag and takes no value"))
			return
		}
		problem := "there is no such flag"
		if near := nearest(name, split(flags)); near != "" {
			problem += ", did you mean " + near + "?"
		}
		in.wrong = append(in.wrong, Bad(name, "%s", problem).WithHint("the flags are %s", flags))
	}
}
