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

// datedTree is a dated tree, with or without its marker, or only a marker. A tree without a marker is being made, or
// was left by a killed run.
type datedTree struct {
	host, name string
	stored     *backup.Stored // the content of the marker; nil: there is no marker
	damage     error          // why the marker cannot be read; stored then has what the name says

	// Whether the tree itself exists. If it does not, or lacks a root, stored is incomplete.
	exists bool
}

func (t datedTree) id() string { return t.name + "." + t.host }

const (
	markerSuffix = ".json"
	lockPrefix   = ".lock"
)

var (
	treeNamePattern = regexp.MustCompile(`^\d{8}T\d{6}Z(-\d{1,6})?$`)
	hostNamePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`) // not a hidden file, a pattern of rsync, or ".."
)

// splitID splits an ID into the tree's name and the host. It returns false if id cannot be an ID.
func splitID(id string) (datedTree, bool) {
	name, host, _ := strings.Cut(id, ".")
	return datedTree{host: host, name: name}, treeNamePattern.MatchString(name) && hostNamePattern.MatchString(host)
}

// unusedName returns a name for a new tree of that time, which none of the trees has.
func unusedName(at time.Time, trees []datedTree) string {
	taken := map[string]bool{}
	for _, t := range trees {
		taken[t.name] = true
	}
	first := at.UTC().Format(backup.StampLayout)
	name := first
	for n := 2; taken[name]; n++ {
		name = first + "-" + strconv.Itoa(n)
	}
	return name
}

// readTrees finds the trees of a host, or of every host if host is "", in a directory with the layout of this package.
func readTrees(dir, host string) ([]datedTree, error) {
	hosts := []string{host}
	if host == "" {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, readError(dir, err)
		}
		hosts = nil
		for _, entry := range entries {
			if entry.IsDir() && hostNamePattern.MatchString(entry.Name()) {
				hosts = append(hosts, entry.Name())
			}
		}
	}
	var all []datedTree
	for _, host := range hosts {
		trees, err := readHost(dir, host)
		if err != nil {
			return nil, err
		}
		all = append(all, trees...)
	}
	return all, nil
}

// missingHint says what to do if there is no directory at the path that was given.
const missingHint = "correct path, or mount what it lies on; for a first backup make the directory"

// readError returns the fault for an error of reading the place.
func readError(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.RepositoryMissing, "%s is not there", dir).WithHint(missingHint)
	}
	return fault.New(fault.CommandFailed, "read the backups: %w", err)
}

func readHost(dir, host string) ([]datedTree, error) {
	entries, err := os.ReadDir(filepath.Join(dir, host))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // there is no backup of this host yet
	}
	if err != nil {
		return nil, readError(dir, err)
	}
	found := map[string]*datedTree{}
	var order []string
	at := func(name string) *datedTree {
		if found[name] == nil {
			found[name] = &datedTree{host: host, name: name}
			order = append(order, name)
		}
		return found[name]
	}
	for _, entry := range entries {
		name, isMarker := strings.CutSuffix(entry.Name(), markerSuffix)
		switch {
		case !treeNamePattern.MatchString(name):
		case !isMarker:
			at(name).exists = true
		default:
			stored, err := readMarker(filepath.Join(dir, host, entry.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was just removed; its tree follows
			}
			if errors.Is(err, fault.BackendFailed) {
				stored, at(name).damage = backup.DamagedStored(at(name).id(), host, err), err
			} else if err != nil {
				return nil, err
			}
			stored.ID, stored.Host = at(name).id(), host
			at(name).stored = &stored
		}
	}
	trees := make([]datedTree, 0, len(order))
	for _, name := range order {
		if t := found[name]; t.stored != nil && t.damage == nil && !t.exists {
			t.stored.Incomplete, t.stored.Damaged = true, "its marker is there, and its tree is not"
		}
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
	err := json.Unmarshal(data, &s)
	if err == nil && len(s.Roots) == 0 {
		err = errors.New("it names no root")
	}
	if err != nil {
		return s, fault.New(fault.BackendFailed, "the marker %s cannot be read: %w", name, err).
			WithHint("remove it together with the tree of that name")
	}
	return s, nil
}
