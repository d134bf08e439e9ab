// Package journal records what a run is about to do before the run does it, and the outcome afterwards, so that an
// interrupted run can be finished or undone.
//
// Each entry is one file. After a power cut the file has either its old or its new content, never a part. The journal
// says what a run intended; only LVM knows the actual state. Where the two differ, LVM is right.
package journal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
)

// Outcome says how the work of an entry ended.
type Outcome string

const (
	Unfinished Outcome = ""       // under way, or interrupted
	Done       Outcome = "done"   // everything was done
	Undone     Outcome = "undone" // everything was put back
)

// Entry records one piece of work of a run and how far it got.
type Entry struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`    // of the work, such as "merge"
	Set     string          `json:"set"`     // the name of the set
	Groups  []string        `json:"groups"`  // the volume groups that the work may change
	BootID  string          `json:"boot_id"` // of the boot in which Begin was called
	Begun   time.Time       `json:"begun"`
	Number  int64           `json:"number,omitempty"` // grows with each entry; 0: a version without numbers has begun it
	Updated time.Time       `json:"updated"`
	Step    string          `json:"step"` // the last step that was recorded
	Outcome Outcome         `json:"outcome"`
	State   json.RawMessage `json:"state,omitempty"` // what is needed to finish or undo the work; its form depends on Kind
}

// Journal is a directory of entries.
type Journal struct {
	dir    string
	bootID string           // of the current boot
	clock  func() time.Time // wallClock, except in tests
}

const (
	bootIDFile = "/proc/sys/kernel/random/boot_id" // random(4)
	suffix     = ".json"
)

// Open returns the journal in dir. If dir is missing, Open creates it with mode 0700.
func Open(dir string) (*Journal, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	bootID, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	return &Journal{dir: dir, bootID: strings.TrimSpace(string(bootID)), clock: wallClock}, nil
}

// InBoot returns the journal as a process sees it that runs in another boot, for tests.
func (j *Journal) InBoot(id string) *Journal {
	copied := *j
	copied.bootID = id
	return &copied
}

// wallClock returns the current time without Go's monotonic reading, so that it equals what is read from a file later.
func wallClock() time.Time { return time.Now().UTC().Round(0) }

// NewID returns an id that sorts by time and has random digits at its end, so that two runs that begin in the same
// microsecond have different ids.
func NewID() string {
	var random [3]byte
	_, _ = unix.Getrandom(random[:], 0) // a request for so few bytes does not fail (getrandom(2))
	timestamp := strings.ReplaceAll(time.Now().UTC().Format("20060102t150405.000000"), ".", "-")
	return timestamp + "-" + hex.EncodeToString(random[:])
}

// IsID reports whether id has the form of the ids that NewID returns.
func IsID(id string) bool {
	const pattern = "00000000t000000-000000-ffffff" // 0: a decimal digit; f: a hexadecimal digit
	if len(id) != len(pattern) {
		return false
	}
	for i := range pattern {
		allowed := pattern[i : i+1]
		switch allowed {
		case "0":
			allowed = "0123456789"
		case "f":
			allowed = "0123456789abcdef"
		}
		if !strings.Contains(allowed, id[i:i+1]) {
			return false
		}
	}
	return true
}

// ThisBoot reports whether the entry was begun since the last boot of this machine.
func (j *Journal) ThisBoot(e *Entry) bool { return e.BootID == j.bootID }

// Begin writes a new entry. If state is not nil, it is stored as JSON. An id that is in use is the fault exists, one
// with characters other than a-z, 0-9 and - is bad_arguments. When Begin returns nil, the entry is on the disk.
func (j *Journal) Begin(id, kind, set string, groups []string, step string, state any) (*Entry, error) {
	path, err := j.path(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Exists, "journal entry %s exists already", id)
	}
	e := &Entry{ID: id, Kind: kind, Set: set, Groups: slices.Clone(groups), BootID: j.bootID, Begun: j.clock()}
	e.Number = j.nextNumber()
	if err := j.write(e, step, Unfinished, state); err != nil {
		return nil, err
	}
	return e, nil
}

// Record writes that step is reached. If state is nil, the stored state stays as it is. When Record returns nil, the
// step is on the disk. When it returns an error, e is unchanged.
func (j *Journal) Record(e *Entry, step string, state any) error {
	return j.write(e, step, e.Outcome, state)
}

// Finish is Record for the last step and the outcome. It also removes old entries. An error in that is not reported,
// because the outcome is written and the next Finish tries again.
func (j *Journal) Finish(e *Entry, step string, outcome Outcome, state any) error {
	if err := j.write(e, step, outcome, state); err != nil {
		return err
	}
	_ = j.prune()
	return nil
}

// Forget removes an entry, as if it had never been begun. Unlike Finish, it works on a full disk.
func (j *Journal) Forget(e *Entry) error {
	path, err := j.path(e.ID)
	if err != nil {
		return err
	}
	return durable.Remove(path)
}

// write stores the entry with a new step and outcome. All changes of entries, except Forget, go through it. The
// failpoint is after the write, because a run that is killed there must be resumable from step.
func (j *Journal) write(e *Entry, step string, outcome Outcome, state any) error {
	path, err := j.path(e.ID)
	if err != nil {
		return err
	}
	next := *e
	next.Step, next.Outcome, next.Updated = step, outcome, j.clock()
	if state != nil {
		if next.State, err = json.Marshal(state); err != nil {
			return fmt.Errorf("journal entry %s, step %s: %w", e.ID, step, err)
		}
	}
	data, err := json.MarshalIndent(&next, "", "  ")
	if err != nil {
		return fmt.Errorf("journal entry %s, step %s: %w", e.ID, step, err)
	}
	if err := durable.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("journal entry %s, step %s: %w", e.ID, step, err)
	}
	*e = next
	failpoint.Hit(e.Kind + "." + step)
	return nil
}

// Load returns the entry with this id. If there is none, the fault is not_found. A file that cannot be decoded is the
// fault journal_damaged.
func (j *Journal) Load(id string) (*Entry, error) {
	path, err := j.path(id)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "no journal entry %s", id)
	}
	if err != nil {
		return nil, err
	}
	e, err := decode(id, data)
	if err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s cannot be read: %w", path, err).
			With("files", []string{path}).
			WithHint("look at %s, repair by hand what it describes, then move it away", path)
	}
	return e, nil
}

// decode reads the content of the file of the entry with this id.
func decode(id string, data []byte) (*Entry, error) {
	e := new(Entry)
	if err := json.Unmarshal(data, e); err != nil {
		return nil, err
	}
	if e.ID != id {
		return nil, fmt.Errorf("it says it is entry %q", e.ID)
	}
	switch e.Outcome {
	case Unfinished, Done, Undone:
	default:
		return nil, fmt.Errorf("unknown outcome %q", e.Outcome)
	}
	// In the file the state is indented like the other fields. Callers get it in the form in which it was given.
	var state bytes.Buffer
	if len(e.State) > 0 && json.Compact(&state, e.State) == nil {
		e.State = state.Bytes()
	}
	return e, nil
}

// Read returns the entries of the journal in dir as Entries does, and none of a journal that does not exist. It does
// not make one, because reading must not change anything. Faults: those of Open and Entries.
func Read(dir string) ([]*Entry, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	j, err := Open(dir)
	if err != nil {
		return nil, err
	}
	return j.Entries()
}

// Entries returns all entries, newest first. If some cannot be read, it returns the readable ones together with the
// fault journal_damaged, which names each damaged file.
func (j *Journal) Entries() ([]*Entry, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	var list []*Entry
	var damaged []error
	for _, file := range files {
		id, isEntry := strings.CutSuffix(file.Name(), suffix)
		if !isEntry || !isSafe(id) {
			continue // such as a temporary file that a power cut left behind
		}
		e, err := j.Load(id)
		switch {
		case errors.Is(err, fault.NotFound): // another run has removed it since ReadDir
		case err != nil:
			damaged = append(damaged, err)
		default:
			list = append(list, e)
		}
	}
	sort.Slice(list, func(i, j int) bool { return isNewer(list[i], list[j]) })
	return list, fault.All(damaged...)
}

// nextNumber returns a number that no entry has.
func (j *Journal) nextNumber() int64 {
	list, _ := j.Entries() // a damaged entry has no number
	last := int64(0)
	for _, e := range list {
		last = max(last, e.Number)
	}
	return last + 1
}

// isNewer reports whether a was begun after b. It does not go by the clock, which may have been set back in between:
// the last rollback of a set would then be taken for an earlier one.
func isNewer(a, b *Entry) bool {
	if a.Number != b.Number && a.Number > 0 && b.Number > 0 {
		return a.Number > b.Number
	}
	if !a.Begun.Equal(b.Begun) {
		return a.Begun.After(b.Begun)
	}
	return a.ID > b.ID
}

// Unfinished returns the entries without an outcome, newest first. Its error is that of Entries.
func (j *Journal) Unfinished() ([]*Entry, error) {
	list, err := j.Entries()
	return slices.DeleteFunc(list, func(e *Entry) bool { return e.Outcome != Unfinished }), err
}

// path returns the path of an entry's file.
func (j *Journal) path(id string) (string, error) {
	if !isSafe(id) {
		return "", fault.New(fault.BadArguments, "%q is not an id of a journal entry: a-z, 0-9 and - are allowed", id)
	}
	return filepath.Join(j.dir, id+suffix), nil
}

// isSafe reports whether id can be part of a file name. No such id leads out of the journal's directory.
func isSafe(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for _, c := range id {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
