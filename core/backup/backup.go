// Package backup stores sets of snapshots with a backend, and finds them again.
//
// This page is the contract: what a backend must do. A backend stores trees and presents stored ones as readable
// directories; it never writes to a volume. It runs as a process of its own (package plugin hosts it, package
// backuptest holds what every one must keep to), is handed paths, never data, and may be killed at any moment.
package backup

import (
	"context"
	"time"
)

// Backend is a program that stores trees and presents them again. Every method ends soon after ctx does, with whatever
// programs it had started. Failures are fault.Errors; the codes a backend gives beside the common ones:
//
//	repository_missing   there is no repository at the place named
//	wrong_password       the repository does not open with this password
//	repository_locked    another program holds the repository
//	repository_full      the place that holds the repository has no room left
//	source_unreadable    a file to be stored could not be read: facts "paths"
//	source_vanished      a file to be stored was gone when it was read (volumes that are read live): facts "paths"
//	not_found            there is no backup of that ID
//	bad_arguments        an option is unknown, missing or wrong, each named
//	unsupported          the installed tool, or this host, cannot do it
type Backend interface {
	// Describe checks the options and says what the backend can do with them on this host. It starts nothing that
	// lasts and opens no repository.
	Describe(ctx context.Context, c Config) (Description, error)

	// Store stores the roots of the tree as one backup. They are there from the call on until it returns, not longer. When
	// it returns without an error the backup is complete, can be listed and presented, and survives a power cut as well as
	// the place it lies in does. Beside source_unreadable and source_vanished it returns what it stored all the same, which
	// is listed as incomplete; after any other error nothing is listed.
	//
	// A file of which it has the content already need not be read if it is known not to have changed: if its inode, size
	// and times of modification and change (ctime) are those that were recorded with that content. Size and time of
	// modification alone say nothing, nor does a ctime that is older than the last backup: a rollback takes it back.
	Store(ctx context.Context, c Config, t Tree, report Report) (Stored, error)

	// List returns the backups of the host, that of the latest time first. Those that other programs made of the host may
	// be among them. host "": those of every host.
	List(ctx context.Context, c Config, host string) ([]Stored, error)

	// Check says whether a Store could begin now: the repository is there, opens, is not locked, can be written, can hold
	// what every tree has. It writes nothing that stays. The warnings are about what only some trees have, such as ACLs,
	// and this repository cannot hold.
	Check(ctx context.Context, c Config) (warnings []string, err error)

	// Present makes the backup readable below a directory and calls use, once. What it made for that is gone when it
	// returns. It returns use's error as it is.
	Present(ctx context.Context, c Config, id string, report Report, use func(context.Context, Presented) error) error

	// Forget takes a backup out of the list for good; not_found if it is not there. The room it took may be freed later.
	Forget(ctx context.Context, c Config, id string) error

	// Settle removes what an earlier run of this host that was killed left in the repository: locks, half-stored trees.
	// It never touches those of a run that is alive.
	Settle(ctx context.Context, c Config) error
}

// Config is how a backend is to work.
type Config struct {
	// Options are the user's backend_options, of JSON's types. No secret is in them: passwords come from a file that
	// is named here, or from the environment.
	Options map[string]any `json:"options"`

	// Environment is what the tool is given beside LC_ALL, PATH and HOME. Its values are secrets.
	Environment map[string]string `json:"environment,omitempty"`

	// Host is the host that asks, by the name of its backups: Settle leaves what others left to them. "": all are its own.
	Host string `json:"host,omitempty"`

	// Scratch is an empty directory, mode 0700, for mount points and sockets. It lies in memory and is removed
	// afterwards.
	Scratch string `json:"scratch"`
}

// Description is what a backend is.
type Description struct {
	Name    string `json:"name"`
	Version string `json:"version"` // of the tool, or of the backend itself

	// Local are the absolute paths on this host that Store and Present read or write beside the tree and Scratch: the
	// repository, a cache. None of them may lie on a volume of the set.
	Local []string `json:"local,omitempty"`

	// Recording: Store writes Tree.Record itself, while it looks at the files. Else the host does, before it.
	Recording bool `json:"recording,omitempty"`

	// Features are what this version can do beyond the contract, by name, for people.
	Features []string `json:"features,omitempty"`
}

// Tree is what is to be stored.
type Tree struct {
	Host  string    `json:"host"`
	Set   string    `json:"set"`
	Time  time.Time `json:"time"` // the set's instant: the backup's time
	Roots []string  `json:"roots"`

	// ReadAll: every file is read, and held against what the backend has of it, whatever its size and times are.
	ReadAll bool `json:"read_all,omitempty"`

	// Records is a directory with records of what the files of earlier backups were like (package record), by ID; "":
	// there are none. A backend that asks for it in its Description writes one of the tree that it stores into the file
	// Record, which the host keeps there.
	Records string `json:"records,omitempty"`
	Record  string `json:"record,omitempty"`
}

// Each of a tree's roots is an absolute path, at which the snapshot is mounted where the backend sees it, and by which it is known
// in the backup. None is given twice; one may lie below another ("/dat" and "/dat/wal"), which is a mount point then.
// What is mounted below a root and is no root is not part of it.

// Stored is one backup.
type Stored struct {
	ID         string    `json:"id"` // safe as a file's name, unique in the repository
	Host       string    `json:"host"`
	Set        string    `json:"set,omitempty"`
	Time       time.Time `json:"time"`
	Roots      []string  `json:"roots"`
	Incomplete bool      `json:"incomplete,omitempty"`

	// Sequence numbers a host's backups in the order in which they were made, whatever its clock said: Store gives each a
	// higher one than any that the repository has of the host (NextSequence). 0: it is not known.
	Sequence int64 `json:"sequence,omitempty"`

	// What Store did; List leaves out what it does not know.
	Files    int64    `json:"files,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`        // of the tree
	Added    int64    `json:"stored_bytes,omitempty"` // by which the repository grew
	Warnings []string `json:"warnings,omitempty"`     // what is not in the backup and need not be: sockets
}

// Presented is a backup made readable.
type Presented struct {
	// Roots maps each root of the backup to the directory where it is readable now.
	Roots map[string]string `json:"roots"`

	// Flags is a file that lists the inode flags (chattr(1): i, a, d) of what is in the backup, one FlagLine for each that
	// has some. "": the backend does not keep them.
	Flags string `json:"flags,omitempty"`

	// NoDevices says that the numbers of device nodes are not to be seen: they are all 0:0.
	NoDevices bool `json:"no_devices,omitempty"`

	// Direct says that files can be read with O_DIRECT, at any offset and length, and faster so: those of a FUSE mount.
	Direct bool `json:"direct,omitempty"`
}

// Progress is how far a backend is.
type Progress struct {
	Label string `json:"label,omitempty"`
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; 0: not known yet
	Files int64  `json:"files"`
}

// Report takes progress. It never blocks for long and may be called as often as the backend likes, from one goroutine
// at a time. A backend that works calls it at least every ten seconds.
type Report func(Progress)
