package record

import (
	"bufio"
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

	// mostRecords and mostBytes bound what is kept of one backend; the newest record is kept in any case. It has 16 bytes
	// for each file.
	mostRecords = 100
	mostBytes   = 256 << 20

	lineMax = 1 << 20 // of what a record says of its backup
)

// Keeper keeps the records of one backend's backups in a directory, which is made when it is needed.
type Keeper struct{ Dir string }

func (k Keeper) path(id string) string { return filepath.Join(k.Dir, id+suffix) }

// Open returns the record of a backup; nil if there is none, or none that can be read.
func (k Keeper) Open(s backup.Stored) *Record {
	if k.Dir == "" || s.ID == "" || strings.ContainsAny(s.ID, "/\x00") {
		return nil
	}
	file, err := os.Open(k.path(s.ID))
	if err != nil {
		return nil
	}
	r, err := open(file, s)
	if err != nil {
		file.Close()
		return nil
	}
	return r
}

func open(file *os.File, s backup.Stored) (*Record, error) {
	line, err := bufio.NewReader(io.LimitReader(file, lineMax)).ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	about, ok := strings.CutPrefix(string(line), magic)
	var of backup.Stored
	if !ok {
		return nil, errDamaged
	}
	if err := json.Unmarshal([]byte(about), &of); err != nil {
		return nil, err
	}
	if !sameBackup(of, s) {
		return nil, errors.New("it is that of another backup")
	}
	return read(file, int64(len(line)))
}

// sameBackup tells whether a backup that is listed is the one that was stored: in two repositories there may be one ID.
// A list may leave out what it does not know, and parts of seconds.
func sameBackup(stored, listed backup.Stored) bool {
	unlike := func(a, b int64) bool { return b != 0 && a != b }
	return stored.ID == listed.ID && stored.Host == listed.Host && stored.Time.Sub(listed.Time).Abs() < time.Second &&
		slices.Equal(slices.Sorted(slices.Values(stored.Roots)), slices.Sorted(slices.Values(listed.Roots))) &&
		!unlike(stored.Files, listed.Files) && !unlike(stored.Bytes, listed.Bytes) && !unlike(stored.Added, listed.Added)
}

// Keep makes a file that Make has written the record of a backup, and removes the oldest records beyond what is kept.
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
	about, err := json.Marshal(s)
	if err != nil {
		return err
	}
	line := strings.NewReader(magic + string(about) + "\n")
	if err := durable.Install(k.path(s.ID), io.MultiReader(line, file), 0o600); err != nil {
		return err
	}
	return k.prune(s.ID)
}

// Remove removes the record of a backup, if there is one.
func (k Keeper) Remove(id string) error {
	err := os.Remove(k.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// prune removes the oldest records beyond what is kept, but not that of the ID.
func (k Keeper) prune(id string) error {
	entries, err := os.ReadDir(k.Dir)
	if err != nil {
		return err
	}
	var all []fs.FileInfo
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && strings.HasSuffix(entry.Name(), suffix) && entry.Name() != id+suffix {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var bytes int64
	for i, info := range all {
		if bytes += info.Size(); i+1 < mostRecords && bytes <= mostBytes {
			continue
		}
		if err := os.Remove(filepath.Join(k.Dir, info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
