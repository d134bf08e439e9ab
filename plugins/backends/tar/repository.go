package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
)

// repository is a directory that holds ID.tar and ID.json for each backup. ID.json is the backup's entry in the list.
// It is written last and removed first: an archive without an entry is no backup.
type repository struct{ path string }

// repositoryOf checks the options and touches nothing.
func repositoryOf(c backup.Config) (repository, error) {
	var options struct {
		Path string `mapstructure:"path" doc:"the directory that holds the archives"`
	}
	if err := c.Decode(&options); err != nil {
		return repository{}, err
	}
	if !filepath.IsAbs(options.Path) {
		return repository{}, fault.New(fault.BadArguments, "path: %q is no absolute path", options.Path).
			WithHint(`backend_options: {"path": "/mnt/archives"}`)
	}
	return repository{filepath.Clean(options.Path)}, nil
}

// open is repositoryOf, and fails with repository_missing if the directory does not exist. The directory is never made,
// because its file system may only not be mounted.
func open(c backup.Config) (repository, error) {
	r, err := repositoryOf(c)
	if err != nil {
		return repository{}, err
	}
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return repository{}, fault.New(fault.RepositoryMissing, "there is no directory %s", r.path).
			WithHint("mount what it lies on, or create it")
	}
	if err != nil {
		return repository{}, fault.New(fault.BackendFailed, "repository: %w", err)
	}
	return r, nil
}

func (r repository) archive(id string) string { return filepath.Join(r.path, id+".tar") }
func (r repository) entry(id string) string   { return filepath.Join(r.path, id+".json") }
func (r repository) partial(id string) string { return filepath.Join(r.path, id+".partial") }

// lock keeps other programs from storing and settling until unlock is called, or until this process ends.
func (r repository) lock() (unlock func(), err error) {
	l, err := lock.Exclusive(r.path)
	if errors.Is(err, lock.ErrHeld) {
		return nil, fault.New(fault.RepositoryLocked, "another program stores into %s", r.path).
			WithHint("wait until it has ended")
	}
	if err != nil {
		return nil, fault.New(fault.BackendFailed, "lock %s: %w", r.path, err)
	}
	return l.Release, nil
}

// freeID returns an ID that no backup has. The caller holds the lock.
func (r repository) freeID(t time.Time) (string, error) {
	id := t.UTC().Format(backup.StampLayout)
	for n := 2; ; n++ {
		_, err := os.Lstat(r.archive(id))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(r.entry(id)) // of a backup whose archive somebody has removed
		}
		if errors.Is(err, fs.ErrNotExist) {
			return id, nil
		}
		if err != nil {
			return "", fault.New(fault.BackendFailed, "look for a free name: %w", err)
		}
		id = fmt.Sprintf("%s-%d", t.UTC().Format(backup.StampLayout), n)
	}
}

// publish waits until the whole archive is on the disk, then gives it its final name, and returns its size in bytes.
func publish(partial, archive string) (int64, error) {
	file, err := os.Open(partial)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return 0, asRepositoryFull(err)
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(partial, archive)
}

// addToList writes the entry of a backup. That syncs the directory, and with it the name of the archive.
func (r repository) addToList(s backup.Stored) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.entry(s.ID), data, 0o600); err != nil {
		return errors.Join(asRepositoryFull(err), os.Remove(r.archive(s.ID)))
	}
	return nil
}

func asRepositoryFull(err error) error {
	if durable.IsFull(err) {
		return fault.New(fault.RepositoryFull, "%w", err)
	}
	return err
}

func (r repository) list(host string) ([]backup.Stored, error) {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return nil, fault.New(fault.BackendFailed, "list the backups: %w", err)
	}
	var all []backup.Stored
	for _, entry := range entries {
		id, isEntry := strings.CutSuffix(entry.Name(), ".json")
		if !isEntry {
			continue
		}
		s, err := r.find(id)
		if errors.Is(err, fault.NotFound) || err != nil && !isOwnID(id) {
			continue // it was just forgotten, or another program has written the file
		}
		if err != nil {
			s = backup.DamagedStored(id, host, err) // only the entry says whose it is: it counts as the host's that asks
		}
		if host != "" && s.Host != host {
			continue
		}
		if gone := r.checkArchive(s); gone != nil && !s.Incomplete {
			s.Incomplete, s.Damaged = true, gone.Error()
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b backup.Stored) int { return b.Time.Compare(a.Time) })
	return all, nil
}

// checkArchive returns an error if the archive of a backup is not there any more, or not of the size that it had. Only
// the size is looked at.
func (r repository) checkArchive(s backup.Stored) error {
	info, err := os.Stat(r.archive(s.ID))
	if err != nil {
		return fault.New(fault.BackendFailed, "backup %s is damaged: %w", s.ID, err)
	}
	if info.Size() != s.Bytes {
		return fault.New(fault.BackendFailed, "backup %s is damaged: %s has %d bytes, and had %d", s.ID, r.archive(s.ID),
			info.Size(), s.Bytes)
	}
	return nil
}

// find reads the entry of a backup.
func (r repository) find(id string) (backup.Stored, error) {
	missing := fault.New(fault.NotFound, "there is no backup %q in %s", id, r.path)
	if id == "" || strings.Contains(id, "/") {
		return backup.Stored{}, missing
	}
	data, err := os.ReadFile(r.entry(id))
	if errors.Is(err, fs.ErrNotExist) {
		return backup.Stored{}, missing
	}
	if err != nil {
		return backup.Stored{}, fault.New(fault.BackendFailed, "read an entry: %w", err)
	}
	var s backup.Stored
	if err := json.Unmarshal(data, &s); err != nil || s.ID != id {
		return backup.Stored{}, fault.New(fault.BackendFailed, "%s is not the entry of a backup", r.entry(id)).
			WithHint("another program has written it, or the disk has lost it: move it away")
	}
	return s, nil
}

func (r repository) remove(id string) error {
	if err := durable.Remove(r.entry(id)); err != nil {
		return fault.New(fault.BackendFailed, "forget %s: %w", id, err)
	}
	if err := os.Remove(r.archive(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.BackendFailed, "forget %s: %w", id, err)
	}
	return nil
}

// ownFile matches the names of the archives that this backend makes, complete and not.
var ownFile = regexp.MustCompile(`^(\d{8}T\d{6}Z(?:-\d+)?)\.(tar|partial)$`)

// isOwnID reports whether this backend may have made a backup of that ID.
func isOwnID(id string) bool { return ownFile.MatchString(id + ".tar") }

// settle removes what was never listed or is no longer listed. Files that other programs have put there stay. The
// caller holds the lock.
func (r repository) settle() error {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return fault.New(fault.BackendFailed, "settle: %w", err)
	}
	for _, entry := range entries {
		name := ownFile.FindStringSubmatch(entry.Name())
		if name == nil {
			continue
		}
		_, err := os.Lstat(r.entry(name[1]))
		if name[2] == "tar" && !errors.Is(err, fs.ErrNotExist) {
			continue // it is listed
		}
		if err := os.Remove(filepath.Join(r.path, entry.Name())); err != nil {
			return fault.New(fault.BackendFailed, "settle: %w", err)
		}
	}
	return backup.SettleRooms(r.path)
}
