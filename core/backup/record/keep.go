package record

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
)

const (
	suffix = ".record"

	// maxRecords and maxBytes bound the records that are kept for one backend. The newest record is kept in any case. A
	// record has 16 bytes for each file.
	maxRecords = 100
	maxBytes   = 256 << 20

	maxHeader = 1 << 20 // bytes of the line that describes the backup

	// unfinishedFor is how long a hidden file lies unchanged before nobody is making it any more. A backend may store for
	// days after the host has made the record.
	unfinishedFor = 7 * 24 * time.Hour
)

// Keeper keeps the records of one backend's backups in the directory Dir, which is made if it does not exist.
type Keeper struct{ Dir string }

func (k Keeper) path(id string) string { return filepath.Join(k.Dir, id+suffix) }

// NewFile returns the path of a file that does not exist yet, in which a new record can be made. It lies beside the
// records and not in the memory of /run: a record of ten million files would fill that. Whoever makes the file removes
// it, and Keep removes files that killed processes have left for a week. The error is that of making Dir.
func (k Keeper) NewFile() (string, error) {
	return filepath.Join(k.Dir, ".new-"+rand.Text()), durable.MkdirAll(k.Dir, 0o700)
}

// Open returns the record of a backup. It returns nil if there is none, or none that can be read. The caller closes the
// record.
func (k Keeper) Open(s backup.Stored) *Record {
	if k.Dir == "" || s.ID == "" || strings.ContainsAny(s.ID, "/\x00") {
		return nil
	}
	file, err := os.Open(k.path(s.ID))
	if err != nil {
		return nil
	}
	r, err := openRecord(file, s)
	if err != nil {
		file.Close()
		return nil
	}
	return r
}

func openRecord(file *os.File, s backup.Stored) (*Record, error) {
	line, err := bufio.NewReader(io.LimitReader(file, maxHeader)).ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	header, ok := strings.CutPrefix(string(line), magic)
	var recorded backup.Stored
	if !ok {
		return nil, errDamaged
	}
	if err := json.Unmarshal([]byte(header), &recorded); err != nil {
		return nil, err
	}
	if !sameBackup(recorded, s) {
		return nil, errors.New("it is the record of another backup")
	}
	return readIndex(file, int64(len(line)))
}

// sameBackup reports whether a backup in a list is the one that was stored and recorded. The ID alone does not tell,
// because two repositories may use the same ID. A list may leave out figures that it does not know, and fractions of a
// second.
func sameBackup(stored, listed backup.Stored) bool {
	differ := func(a, b int64) bool { return b != 0 && a != b }
	return stored.ID == listed.ID && stored.Host == listed.Host && stored.Time.Sub(listed.Time).Abs() < time.Second &&
		slices.Equal(slices.Sorted(slices.Values(stored.Roots)), slices.Sorted(slices.Values(listed.Roots))) &&
		!differ(stored.Files, listed.Files) && !differ(stored.Bytes, listed.Bytes) && !differ(stored.Added, listed.Added)
}

// Keep keeps the file that Make has written as the record of the backup s, and removes the oldest records beyond
// maxRecords and maxBytes. It copies the file from; the caller removes that.
func (k Keeper) Keep(s backup.Stored, from string) error {
	if err := durable.MkdirAll(k.Dir, 0o700); err != nil {
		return err
	}
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	s.Warnings = nil
	header, err := json.Marshal(s)
	if err != nil {
		return err
	}
	firstLine := strings.NewReader(magic + string(header) + "\n")
	if err := durable.Install(k.path(s.ID), io.MultiReader(firstLine, file), 0o600); err != nil {
		return err
	}
	return k.prune(s.ID)
}

// Remove removes the record of the backup with this ID, if there is one.
func (k Keeper) Remove(id string) error {
	err := os.Remove(k.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// prune removes the oldest records beyond maxRecords and maxBytes, but not that of the backup keepID. It also removes
// the unfinished files that killed processes have left.
func (k Keeper) prune(keepID string) error {
	entries, err := os.ReadDir(k.Dir)
	if err != nil {
		return err
	}
	var others []fs.FileInfo
	for _, entry := range entries {
		info, err := entry.Info()
		switch {
		case err != nil:
		case strings.HasPrefix(entry.Name(), ".") && time.Since(info.ModTime()) > unfinishedFor:
			_ = os.Remove(filepath.Join(k.Dir, entry.Name())) // it takes room until the next time
		case strings.HasSuffix(entry.Name(), suffix) && entry.Name() != keepID+suffix:
			others = append(others, info)
		}
	}
	slices.SortFunc(others, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var total int64
	for i, info := range others {
		if total += info.Size(); i+1 < maxRecords && total <= maxBytes {
			continue
		}
		if err := os.Remove(filepath.Join(k.Dir, info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
