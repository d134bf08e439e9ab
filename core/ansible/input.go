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

// input says how the program was called, and with which arguments.
type input struct {
	call  Call
	given map[string]any // the arguments; nil if they cannot be read at all
	errs  []error        // what is wrong already before the arguments are decoded

	byHand     bool   // a person gave words
	jsonOutput bool   // the output is one JSON object
	show       string // "help", "version" or "document": show that instead of doing the work
	noLog      bool   // the task has no_log
}

// maxArguments limits the size of the JSON object of arguments, in bytes. Ansible usually sends some hundred bytes.
const maxArguments = 16 << 20

// readInput parses the words after the program's name. Ansible starts a binary module with one word, the path of a file
// of arguments; the word "-" means that they are on stdin. Ansible removes the file when it gives up waiting, so it is
// read before anything else is done.
func readInput(words []string, stdin io.Reader) input {
	if len(words) == 1 && words[0] == "-" {
		return parseAnsible(io.ReadAll(io.LimitReader(stdin, maxArguments+1)))
	}
	if len(words) == 1 && isArgumentFile(words[0]) {
		return parseAnsible(readFile(words[0]))
	}
	return parseWords(words)
}

// isArgumentFile reports whether word is the path of a file of arguments from Ansible, which is always absolute. The
// file may be gone already. A directory or a device is not one: a person may have meant it as a volume.
func isArgumentFile(word string) bool {
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

// parseAnsible parses the JSON object that Ansible sends. Keys that begin with _ansible_ are no arguments but settings
// of Ansible, of which this program knows only some. err is the error of reading data.
func parseAnsible(data []byte, err error) input {
	in := input{jsonOutput: true, call: Call{Progress: io.Discard}}
	given, err := decodeObject(data, err)
	if err != nil {
		in.errs = []error{fault.New(fault.BadArguments, "the arguments cannot be read: %w", err).
			WithHint("Ansible calls a module with the path of a file that holds one JSON object; " +
				"by hand, use words such as name=snap")}
		return in
	}
	in.takeSettings(given)
	return in
}

// decodeObject parses data, which must be one JSON object. err is the error of reading data.
func decodeObject(data []byte, err error) (map[string]any, error) {
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
		return nil, errors.New("they must be a JSON object, not " + kindOf(v))
	}
	return given, nil
}

// takeSettings separates the arguments in given from the settings of Ansible and of this collection's action plugin,
// which sends _ansible_patience, in seconds.
func (in *input) takeSettings(given map[string]any) {
	in.given = make(map[string]any, len(given))
	for key, value := range given {
		if !strings.HasPrefix(key, "_ansible_") {
			in.given[key] = value
		}
	}
	isTrue := func(key string) bool {
		b, err := parseBool(given[key])
		return err == nil && b
	}
	in.call.Check = isTrue("_ansible_check_mode")
	in.call.Diff = isTrue("_ansible_diff")
	in.noLog = isTrue("_ansible_no_log")
	integer := func(key string) int64 {
		n, _ := given[key].(json.Number)
		value, _ := n.Int64()
		return value
	}
	in.call.Verbosity = int(integer("_ansible_verbosity"))
	in.call.Patience = time.Duration(max(integer("_ansible_patience"), 0)) * time.Second
}

// flagList lists the flags that a person may use, in the order of --help.
const flagList = "--check, --diff, --json, --help, --version"

// parseWords parses a person's words: name=value, flags, and @FILE for arguments in a file, in any order. An argument
// that is given both as a word and in a file has the value of the word.
func parseWords(words []string) input {
	in := input{byHand: true, given: make(map[string]any), call: Call{Progress: io.Discard}}
	fromFiles := make(map[string]any)
	for _, word := range words {
		if strings.HasPrefix(word, "-") {
			in.parseFlag(word)
			continue
		}
		if path, ok := strings.CutPrefix(word, "@"); ok {
			in.addFile(path, fromFiles)
			continue
		}
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			in.errs = append(in.errs, Bad(word, "is no argument: write name=value").WithHint("--help names the arguments"))
			continue
		}
		if _, twice := in.given[name]; twice {
			in.errs = append(in.errs, Bad(name, "is given twice"))
			continue
		}
		in.given[name] = value
	}
	maps.Copy(fromFiles, in.given)
	in.given = fromFiles
	in.call.Hand = !in.jsonOutput
	return in
}

// addFile adds the arguments in a file, which must hold one JSON object, to given.
func (in *input) addFile(path string, given map[string]any) {
	v, err := decodeObject(readFile(path))
	if err != nil {
		in.errs = append(in.errs, fault.New(fault.BadArguments, "the arguments in %s cannot be read: %w", path, err))
	}
	maps.Copy(given, v)
}

func (in *input) parseFlag(word string) {
	switch word {
	case "--check":
		in.call.Check = true
	case "--diff":
		in.call.Diff = true
	case "--json":
		in.jsonOutput = true
	case "--help", "-h":
		in.show = "help"
	case "--version":
		in.show = "version"
	case "--document": // for generators of documentation; not in --help
		in.show = "document"
	default:
		// What follows a = may be a secret, so it is not quoted.
		name, _, _ := strings.Cut(word, "=")
		if slices.Contains(splitList(flagList), name) {
			in.errs = append(in.errs, Bad(name, "is a flag and takes no value"))
			return
		}
		problem := "there is no such flag"
		if near := nearest(name, splitList(flagList)); near != "" {
			problem += ", did you mean " + near + "?"
		}
		in.errs = append(in.errs, Bad(name, "%s", problem).WithHint("the flags are %s", flagList))
	}
}
