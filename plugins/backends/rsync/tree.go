package rsync

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// tree is a dated tree, or what a run that was killed left of one.
type tree struct {
	host, name string
	stored     *backup.Stored // what its marker says; nil: it has none
	there      bool           // the tree itself
}

func (t tree) id() string { return t.name + "." + t.host }

const (
	nameLayout = "20060102T150405Z"
	markerEnd  = ".json"
	lockStart  = ".lock"
)

var (
	treeName = regexp.MustCompile(`^\d{8}T\d{6}Z(-\d{1,6})?$`)
	hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`) // neither hidden, nor a pattern, nor a way out
)

// splitID takes an ID apart; false for what cannot be one.
func splitID(id string) (tree, bool) {
	name, host, _ := strings.Cut(id, ".")
	return tree{host: host, name: name}, treeName.MatchString(name) && hostName.MatchString(host)
}

// unused returns the name for a tree of that time.
func unused(at time.Time, trees []tree) string {
	taken := map[string]bool{}
	for _, t := range trees {
		taken[t.name] = true
	}
	first := at.UTC().Format(nameLayout)
	name := first
	for n := 2; taken[name]; n++ {
		name = first + "-" + strconv.Itoa(n)
	}
	return name
}

// readTrees reads the trees of host, or of every host, in a directory that is laid out as the package says.
func readTrees(dir, host string) ([]tree, error) {
	hosts := []string{host}
	if host == "" {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, missingDir(dir, err)
		}
		hosts = nil
		for _, entry := range entries {
			if entry.IsDir() && hostName.MatchString(entry.Name()) {
				hosts = append(hosts, entry.Name())
			}
		}
	}
	var all []tree
	for _, host := range hosts {
		trees, err := readHost(dir, host)
		if err != nil {
			return nil, err
		}
		all = append(all, trees...)
	}
	return all, nil
}

func missingDir(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.RepositoryMissing, "%s is not there", dir).WithHint("correct path, or mount what it lies on; for a first backup make the directory")
	}
	return fault.New(fault.CommandFailed, "read the backups: %w", err)
}

func readHost(dir, host string) ([]tree, error) {
	entries, err := os.ReadDir(filepath.Join(dir, host))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was stored of it yet
	}
	if err != nil {
		return nil, missingDir(dir, err)
	}
	found := map[string]*tree{}
	var order []string
	at := func(name string) *tree {
		if found[name] == nil {
			found[name] = &tree{host: host, name: name}
			order = append(order, name)
		}
		return found[name]
	}
	for _, entry := range entries {
		name, isMarker := strings.CutSuffix(entry.Name(), markerEnd)
		switch {
		case !treeName.MatchString(name):
		case !isMarker:
			at(name).there = true
		default:
			stored, err := readMarker(filepath.Join(dir, host, entry.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was removed a moment ago, before its tree
			}
			if err != nil {
				return nil, err
			}
			stored.ID, stored.Host = at(name).id(), host
			at(name).stored = &stored
		}
	}
	trees := make([]tree, 0, len(order))
	for _, name := range order {
		trees = append(trees, *found[name])
	}
	return trees, nil
}

func readMarker(path string) (backup.Stored, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return backup.Stored{}, fault.New(fault.CommandFailed, "read a backup's marker: %w", err)
	}
	return parseMarker(filepath.Base(path), data)
}

func parseMarker(name string, data []byte) (backup.Stored, error) {
	var s backup.Stored
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fault.New(fault.BackendFailed, "the marker %s cannot be read: %w", name, err).
			WithHint("remove it together with the tree of that name")
	}
	return s, nil
}
