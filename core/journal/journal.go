// Package journal records what is about to happen, so that an interrupted run
// can be finished: intent before the act, outcome after it.
//
// Each entry is one file that a power cut cannot halve. The journal says what
// was meant; what is, only LVM knows, and where they differ LVM is right.
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

// Outcome says how an entry ended.
type Outcome string

const (
	Unfinished Outcome = ""       // under way, or interrupted
	Done       Outcome = "done"   // all of it happened
	Undone     Outcome = "undone" // none of it is left
)

// Entry is one intent and how far it got.
type Entry struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`   // what is done, such as "merge"
	Set     string          `json:"set"`    // to which set
	Groups  []string        `json:"groups"` // in which volume groups
	BootID  string          `json:"boot_id"`
	Begun   time.Time       `json:"begun"`
	Updated time.Time       `json:"updated"`
	Step    string          `json:"step"` // the last one reached
	Outcome Outcome         `json:"outcome"`
	State   json.RawMessage `json:"state,omitempty"` // what the kind needs to go on
}

// Journal is a directory of entries.
type Journal struct {
	dir  string
	boot string
	now  func() time.Time
}

const (
	bootIDFile = "/proc/sys/kernel/random/boot_id" // random(4)
	suffix     = ".json"
)

// Open returns the journal in dir, which is made for root only if it is missing.
func Open(dir string) (*Journal, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	return &Journal{dir: dir, boot: strings.TrimSpace(string(boot)), now: wallClock}, nil
}

// wallClock reads as it will from the file: without the monotonic part.
func wallClock() time.Time { return time.Now().UTC().Round(0) }

// NewID returns an id that sorts by time, with a random end: two runs that begin
// in the same microsecond still differ.
func NewID() string {
	var end [3]byte
	_, _ = unix.Getrandom(end[:], 0) // so few bytes are always had (getrandom(2))
	now := strings.ReplaceAll(time.Now().UTC().Format("20060102t150405.000000"), ".", "-")
	return now + "-" + hex.EncodeToString(end[:])
}

// IsID reports whether id is one that NewID could have made.
func IsID(id string) bool {
	const form = "00000000t000000-000000-ffffff"
	if len(id) != len(form) {
		return false
	}
	for i := range form {
		allowed := form[i : i+1]
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

// ThisBoot reports whether the entry was begun since this machine was started.
func (j *Journal) ThisBoot(e *Entry) bool { return e.BootID == j.boot }

// Begin writes a new entry; state, if not nil, is stored as JSON. An id that
// exists is the fault exists.
func (j *Journal) Begin(id, kind, set string, groups []string, step string, state any) (*Entry, error) {
	path, err := j.path(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Exists, "journal entry %s exists already", id)
	}
	now := j.now()
	e := &Entry{ID: id, Kind: kind, Set: set, Groups: slices.Clone(groups), BootID: j.boot, Begun: now}
	if err := j.write(e, step, Unfinished, state); err != nil {
		return nil, err
	}
	return e, nil
}

// Record writes that step is reached. A nil state leaves the stored one as it
// is. When Record returns nil the step is on the disk; on an error e is
// unchanged.
func (j *Journal) Record(e *Entry, step string, state any) error {
	return j.write(e, step, e.Outcome, state)
}

// Finish is Record for the last step. It also prunes old entries; a failure of
// that is not reported, because the outcome is written and the next Finish tries
// again.
func (j *Journal) Finish(e *Entry, step string, outcome Outcome, state any) error {
	if err := j.write(e, step, outcome, state); err != nil {
		return err
	}
	_ = j.prune()
	return nil
}

// Forget removes an entry, as if it had never been begun. It needs no room on the disk.
func (j *Journal) Forget(e *Entry) error {
	path, err := j.path(e.ID)
	if err != nil {
		return err
	}
	return durable.Remove(path)
}

// write is the only place that changes an entry, but for Forget. The failpoint comes after the
// write: a process killed there must be resumable from step.
func (j *Journal) write(e *Entry, step string, outcome Outcome, state any) error {
	path, err := j.path(e.ID)
	if err != nil {
		return err
	}
	next := *e
	next.Step, next.Outcome, next.Updated = step, outcome, j.now()
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

// Load returns the entry of that id; none is the fault not_found.
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
			WithHint("look at %s, put right what it speaks of, then move it away", path)
	}
	return e, nil
}

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
	// Indented with the rest of the file; callers get it as it was given.
	var state bytes.Buffer
	if len(e.State) > 0 && json.Compact(&state, e.State) == nil {
		e.State = state.Bytes()
	}
	return e, nil
}

// Entries returns all entries, newest first. Those that cannot be read are the
// fault journal_damaged, which names each, beside the readable ones.
func (j *Journal) Entries() ([]*Entry, error) {
	files, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	var list []*Entry
	var damaged []error
	for _, file := range files {
		id, isEntry := strings.CutSuffix(file.Name(), suffix)
		if !isEntry || !safe(id) {
			continue // a temporary file that a power cut left
		}
		e, err := j.Load(id)
		switch {
		case errors.Is(err, fault.NotFound): // pruned meanwhile by another run
		case err != nil:
			damaged = append(damaged, err)
		default:
			list = append(list, e)
		}
	}
	sort.Slice(list, func(i, j int) bool { return newer(list[i], list[j]) })
	return list, fault.All(damaged...)
}

func newer(a, b *Entry) bool {
	if !a.Begun.Equal(b.Begun) {
		return a.Begun.After(b.Begun)
	}
	return a.ID > b.ID
}

// Unfinished returns the entries without an outcome, newest first, and the same
// error as Entries.
func (j *Journal) Unfinished() ([]*Entry, error) {
	list, err := j.Entries()
	return slices.DeleteFunc(list, func(e *Entry) bool { return e.Outcome != Unfinished }), err
}

// path returns the file of an entry.
func (j *Journal) path(id string) (string, error) {
	if !safe(id) {
		return "", fault.New(fault.BadArguments, "%q is no journal id: a-z, 0-9 and - are allowed", id)
	}
	return filepath.Join(j.dir, id+suffix), nil
}

// safe reports whether id can be a file's name, which keeps it in the directory.
func safe(id string) bool {
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
