package restic

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// jsonLine is one line of `restic backup --json` or `restic restore --json`. It has no field for seconds_remaining,
// because the numbers of restic 0.14 do not fit into an int64.
type jsonLine struct {
	Type string `json:"message_type"`

	// status
	TotalFiles int64 `json:"total_files"`
	FilesDone  int64 `json:"files_done"`
	TotalBytes int64 `json:"total_bytes"`
	BytesDone  int64 `json:"bytes_done"`
	// status of restore, since 0.16
	FilesRestored int64 `json:"files_restored"`
	BytesRestored int64 `json:"bytes_restored"`

	// summary of backup
	ID          string `json:"snapshot_id"` // before 0.15 only the first 8 digits
	Files       int64  `json:"total_files_processed"`
	Bytes       int64  `json:"total_bytes_processed"`
	Added       int64  `json:"data_added"`
	AddedPacked int64  `json:"data_added_packed"` // since 0.17: the size in the repository, after compression

	// error
	Item  string          `json:"item"`
	Error json.RawMessage `json:"error"` // before 0.17.1 an error of Go in JSON: {"Op","Path","Err":2}, or {}

	// exit_error, since 0.18
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// parseLine parses a line of JSON, and returns false for any other line.
func parseLine(text string) (jsonLine, bool) {
	var l jsonLine
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &l) != nil || l.Type == "" {
		return jsonLine{}, false
	}
	return l, true
}

// vanished reports whether an error says that a file was gone: ENOENT, as a text or as a number.
func (l jsonLine) vanished() bool {
	var e struct {
		Err     json.RawMessage `json:"Err"`
		Message string          `json:"message"`
	}
	_ = json.Unmarshal(l.Error, &e) // an error in another form leaves e empty
	return string(e.Err) == "2" || strings.HasSuffix(e.Message, "no such file or directory")
}

// missingRootLine matches the line on stderr which says that a root is missing. Before 0.17 the exit code is 0 then.
var missingRootLine = regexp.MustCompile(`^(/.*) does not exist, skipping$`)

// snapshot is one element of the output of `restic snapshots --json`.
type snapshot struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Host     string    `json:"hostname"`
	Paths    []string  `json:"paths"`
	Tags     []string  `json:"tags"`
	Tree     string    `json:"tree"`     // the hash of all files
	Original string    `json:"original"` // the ID of the snapshot of which restic made this one; see changed.go

	Summary *struct { // since 0.17
		Files       int64 `json:"total_files_processed"`
		Bytes       int64 `json:"total_bytes_processed"`
		AddedPacked int64 `json:"data_added_packed"`
	} `json:"summary"`
}

// The tags of a backup.
const (
	tagOurs     = "rewind"
	tagSet      = "set="
	tagTime     = "time=" // the exact instant, because restic's own time has only whole seconds
	tagSequence = "sequence="
	tagMachine  = "machine=" // which server of that name made it (backup.Config.Machine)
)

// tags returns the tags for the backup of a tree that this machine makes. None may contain a comma, which would end it.
func tags(t backup.Tree, sequence int64, machine string) []string {
	at := t.Time.UTC().Format(time.RFC3339Nano)
	list := []string{tagOurs, tagTime + at, tagSequence + strconv.FormatInt(sequence, 10)}
	if t.Set != "" {
		list = append(list, tagSet+url.PathEscape(t.Set))
	}
	if machine != "" {
		list = append(list, tagMachine+url.PathEscape(machine))
	}
	return list
}

// toStored returns the backup that a snapshot is. Snapshots of other programs are backups, too, but without a set and a
// sequence number.
func (s snapshot) toStored() backup.Stored {
	b := backup.Stored{ID: s.ID, Host: s.Host, Time: s.Time.UTC(), Roots: s.Paths}
	if s.Summary != nil {
		b.Files, b.Bytes, b.Added = s.Summary.Files, s.Summary.Bytes, s.Summary.AddedPacked
	}
	if !slices.Contains(s.Tags, tagOurs) {
		return b
	}
	for _, tag := range s.Tags {
		if set, ok := strings.CutPrefix(tag, tagSet); ok {
			b.Set, _ = url.PathUnescape(set) // empty if it cannot be decoded
		}
		if machine, ok := strings.CutPrefix(tag, tagMachine); ok {
			b.Machine, _ = url.PathUnescape(machine)
		}
		if number, ok := strings.CutPrefix(tag, tagSequence); ok {
			b.Sequence, _ = strconv.ParseInt(number, 10, 64) // 0 if it is not a number
		}
		if at, ok := strings.CutPrefix(tag, tagTime); ok {
			if instant, err := time.Parse(time.RFC3339Nano, at); err == nil {
				b.Time = instant.UTC()
			}
		}
	}
	return b
}

// snapshots lists the snapshots that are selected by args.
func (t *tool) snapshots(ctx context.Context, args ...string) ([]snapshot, error) {
	out, err := t.Run(ctx, t.cmd(append([]string{"--json", "snapshots"}, args...)...))
	if err != nil {
		return nil, t.explain("list the backups", err)
	}
	return parseSnapshots(out.Stdout)
}

func parseSnapshots(output string) ([]snapshot, error) {
	var list []snapshot
	if err := json.Unmarshal([]byte(output), &list); err != nil {
		return nil, fault.New(fault.BackendFailed, "restic's list of snapshots cannot be read: %w", err)
	}
	return list, nil
}

var idPattern = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// find returns the snapshot with this ID, or whose ID begins with it (8 digits at least). Marks are not found. Fault:
// not_found.
func (t *tool) find(ctx context.Context, id string) (snapshot, error) {
	args := []string{"--no-lock", id}
	isID := idPattern.MatchString(id)
	if !isID {
		// What is not an ID is not passed on, because restic knows other names, such as latest. But restic is called all
		// the same, so that a missing repository is named first.
		args = []string{"--no-lock", "--latest", "1"}
	}
	list, err := t.snapshots(ctx, args...)
	if err != nil {
		return snapshot{}, err
	}
	// If restic does not know the ID, it only says so on stderr, and succeeds.
	for _, s := range list {
		if isID && strings.HasPrefix(s.ID, id) && s.markedID() == "" {
			return s, nil
		}
	}
	return snapshot{}, notFound(id)
}

func notFound(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in the repository",
		id).WithHint("snap_backup_info lists those there are")
}
