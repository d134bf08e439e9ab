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

// line is one line of `restic backup --json` or `restic restore --json`. seconds_remaining is left out: 0.14's does
// not fit any integer.
type line struct {
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
	ID          string `json:"snapshot_id"` // before 0.15 its first 8 digits
	Files       int64  `json:"total_files_processed"`
	Bytes       int64  `json:"total_bytes_processed"`
	Added       int64  `json:"data_added"`
	AddedPacked int64  `json:"data_added_packed"` // since 0.17: compressed, as it lies there

	// error
	Item  string          `json:"item"`
	Error json.RawMessage `json:"error"` // before 0.17.1 a Go error as JSON makes it: {"Op","Path","Err":2}, or {}

	// exit_error, since 0.18
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// parseLine reads a line; false for one that is not restic's JSON.
func parseLine(text string) (line, bool) {
	var l line
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &l) != nil || l.Type == "" {
		return line{}, false
	}
	return l, true
}

// vanished says whether an error is that of a file that was gone: ENOENT, by text or number.
func (l line) vanished() bool {
	var e struct {
		Err     json.RawMessage `json:"Err"`
		Message string          `json:"message"`
	}
	_ = json.Unmarshal(l.Error, &e) // what cannot be read says nothing
	return string(e.Err) == "2" || strings.HasSuffix(e.Message, "no such file or directory")
}

// skipped is how restic says that a root is not there: on stderr, and until 0.17 with exit code 0.
var skipped = regexp.MustCompile(`^(/.*) does not exist, skipping$`)

// snapshot is one of `restic snapshots --json`.
type snapshot struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Host     string    `json:"hostname"`
	Paths    []string  `json:"paths"`
	Tags     []string  `json:"tags"`
	Original string    `json:"original"` // the ID before its tags were changed

	Summary *struct { // since 0.17
		Files       int64 `json:"total_files_processed"`
		Bytes       int64 `json:"total_bytes_processed"`
		AddedPacked int64 `json:"data_added_packed"`
	} `json:"summary"`
}

// The tags that say what a snapshot is.
const (
	tagOurs     = "rewind"
	tagSet      = "set="
	tagTime     = "time=" // restic's own time has whole seconds only
	tagSequence = "sequence="
)

// tags returns those of a tree. A comma would end a tag.
func tags(t backup.Tree, sequence int64) []string {
	at := t.Time.UTC().Format(time.RFC3339Nano)
	list := []string{tagOurs, tagTime + at, tagSequence + strconv.FormatInt(sequence, 10)}
	if t.Set != "" {
		list = append(list, tagSet+url.PathEscape(t.Set))
	}
	return list
}

func (s snapshot) stored() backup.Stored {
	b := backup.Stored{ID: s.ID, Host: s.Host, Time: s.Time.UTC(), Roots: s.Paths}
	if s.Summary != nil {
		b.Files, b.Bytes, b.Added = s.Summary.Files, s.Summary.Bytes, s.Summary.AddedPacked
	}
	if !slices.Contains(s.Tags, tagOurs) {
		return b
	}
	for _, tag := range s.Tags {
		if set, ok := strings.CutPrefix(tag, tagSet); ok {
			b.Set, _ = url.PathUnescape(set) // one that somebody else wrote is no set's name
		}
		if number, ok := strings.CutPrefix(tag, tagSequence); ok {
			b.Sequence, _ = strconv.ParseInt(number, 10, 64) // what is no number says nothing
		}
		if at, ok := strings.CutPrefix(tag, tagTime); ok {
			if instant, err := time.Parse(time.RFC3339Nano, at); err == nil {
				b.Time = instant.UTC()
			}
		}
	}
	return b
}

// snapshots lists those that args choose.
func (t *tool) snapshots(ctx context.Context, args ...string) ([]snapshot, error) {
	out, err := t.Run(ctx, t.cmd(append([]string{"--json", "snapshots"}, args...)...))
	if err != nil {
		return nil, t.explain("list the backups", err)
	}
	return parseSnapshots(out.Stdout)
}

func parseSnapshots(said string) ([]snapshot, error) {
	var list []snapshot
	if err := json.Unmarshal([]byte(said), &list); err != nil {
		return nil, fault.New(fault.BackendFailed, "restic's list of snapshots cannot be read: %w", err)
	}
	return list, nil
}

var wholeOrPartOfID = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// find returns the snapshot of an ID, or of its first digits (at least 8), as restic shows them.
func (t *tool) find(ctx context.Context, id string) (snapshot, error) {
	args := []string{"--no-lock", id}
	proper := wholeOrPartOfID.MatchString(id)
	if !proper {
		// restic has names of its own, such as latest. But first it is to say whether there is a repository at all.
		args = []string{"--no-lock", "--latest", "1"}
	}
	list, err := t.snapshots(ctx, args...)
	if err != nil {
		return snapshot{}, err
	}
	// restic says on stderr only that it ignores what it does not know, and ends well.
	for _, s := range list {
		if proper && strings.HasPrefix(s.ID, id) && s.marked() == "" {
			return s, nil
		}
	}
	return snapshot{}, absent(id)
}

func absent(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in the repository", id).WithHint("snap_backup_info lists those there are")
}
