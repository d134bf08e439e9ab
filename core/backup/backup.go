// Package backup stores sets of snapshots with a backend, and finds them again.
//
// This file is the contract: it says what a backend must do. A backend stores directory trees and presents stored ones
// as readable directories. It never writes to a volume. It runs as a process of its own, which package plugin starts,
// and must pass the tests of package backuptest. It gets paths, never data, and may be killed at any moment.
package backup

import (
	"context"
	"time"
)

// Backend is a program that stores trees and presents them again. When ctx ends, every method soon ends the programs
// that it has started, and returns. Failures are fault.Errors. Beside the common codes a backend uses these:
//
//	repository_missing   there is no repository at the given place
//	wrong_password       the repository does not open with this password
//	repository_locked    another program has locked the repository
//	repository_full      the place that holds the repository has no room left
//	source_unreadable    a file to be stored could not be read; the fact "paths" names the files
//	source_vanished      a file to be stored had gone when it was to be read, which happens on volumes that are read
//	                     live; the fact "paths" names the files
//	not_found            there is no backup with this ID
//	exists               the backups of the host are those of another machine of the same name
//	bad_arguments        an option is unknown, missing or wrong; the message names each such option
//	unsupported          the installed tool, or this host, cannot do it
type Backend interface {
	// Describe checks the options and says what the backend can do with them on this host. It leaves no program running
	// and opens no repository.
	Describe(ctx context.Context, c Config) (Description, error)

	// Store stores the roots of the tree as one backup. The roots are readable until Store returns, not longer. When Store
	// returns without an error, the backup is complete, can be listed and presented, and survives a power cut if its place
	// does. With source_unreadable or source_vanished Store also returns the backup that it made of the other files, and
	// List returns that backup as incomplete. After any other error there is no new backup in the list.
	//
	// Store need not read a file whose content it already has, if the file is known to be unchanged. That is so if the
	// file's inode, size, time of modification and time of change (ctime) are those that were recorded with that content.
	// An equal size and time of modification prove nothing, nor does a ctime that is older than the last backup, because a
	// rollback sets ctimes back.
	Store(ctx context.Context, c Config, t Tree, report Report) (Stored, error)

	// List returns the backups of the host, the one with the latest time first. Backups of the host that other programs
	// made may be among them. If host is empty, List returns the backups of all hosts.
	List(ctx context.Context, c Config, host string) ([]Stored, error)

	// Check returns nil if a Store could begin now: the repository exists, opens, is not locked, can be written, and can
	// hold what every tree has. Check leaves nothing that it wrote. The warnings name what only some trees have, such as
	// ACLs, and this repository cannot hold.
	Check(ctx context.Context, c Config) (warnings []string, err error)

	// Present makes the backup readable below a directory and calls use, once. When Present returns, it has removed what
	// it made for that. It returns the error of use as it is.
	Present(ctx context.Context, c Config, id string, report Report, use func(context.Context, Presented) error) error

	// Forget removes a backup from the list for good. The room that it took may be freed later. Fault: not_found if there
	// is no such backup.
	Forget(ctx context.Context, c Config, id string) error

	// Settle removes what killed runs of this host have left in the repository: locks, half-stored trees. It never touches
	// those of a run that is alive.
	Settle(ctx context.Context, c Config) error
}

// Config says how a backend is to work.
type Config struct {
	// Options are the user's backend_options, with values of JSON's types. They hold no secret: a password comes from a
	// file that an option names, or from Environment.
	Options map[string]any `json:"options"`

	// Environment holds the variables that the backend's tool gets beside LC_ALL, PATH and HOME. The values are secrets.
	Environment map[string]string `json:"environment,omitempty"`

	// Host is the name under which this host's backups are stored. Settle leaves alone what belongs to other hosts. If
	// Host is empty, everything counts as this host's.
	Host string `json:"host,omitempty"`

	// Machine tells the machine that calls from others, also from those of the same name, such as a copy of a virtual
	// machine. It is empty if it is not known, or if the call changes no backups. A backend that has a directory for each
	// host notes it there at the first Store. Store, Check and Forget for another machine then return exists, and Settle
	// leaves the directory alone. List and Present are for all.
	Machine string `json:"machine,omitempty"`

	// Scratch is an empty directory, mode 0700, for mount points and sockets. It is on a file system in memory, and the
	// caller removes it afterwards.
	Scratch string `json:"scratch"`
}

// Description is what Describe returns about a backend.
type Description struct {
	Name    string `json:"name"`
	Version string `json:"version"` // of the tool, or of the backend itself

	// Local are the absolute paths on this host that Store and Present read or write beside the tree and Scratch, such as
	// the repository and a cache. None of them may be on a volume of the set.
	Local []string `json:"local,omitempty"`

	// Recording says that Store itself writes the file Tree.Record, while it looks at the files. Otherwise the host writes
	// that file before it calls Store.
	Recording bool `json:"recording,omitempty"`

	// Features name what this version can do beyond the contract. They are shown to people and otherwise not used.
	Features []string `json:"features,omitempty"`
}

// Tree is what is to be stored.
type Tree struct {
	Host string    `json:"host"`
	Set  string    `json:"set"`
	Time time.Time `json:"time"` // the set's instant, which becomes the backup's time

	// Roots are absolute paths. At each of them the backend sees a mounted snapshot, or a directory that is read live. In
	// the backup it has the same path. No path is given twice. A root may be below another one ("/dat" and "/dat/wal"); it
	// is a mount point then. Whatever else is mounted below a root is not part of the backup.
	Roots []string `json:"roots"`

	// ReadAll has every file read and compared with the content that the backend has of it, whatever its size and times
	// are.
	ReadAll bool `json:"read_all,omitempty"`

	// Records is a directory with the records of earlier backups (package record), by ID. If it is empty, there are no
	// records. A backend that sets Description.Recording writes the record of this tree to the file Record, and the host
	// keeps it in Records.
	Records string `json:"records,omitempty"`
	Record  string `json:"record,omitempty"`
}

// Stored is one backup.
type Stored struct {
	ID         string    `json:"id"` // safe as a file's name, unique in the repository
	Host       string    `json:"host"`
	Set        string    `json:"set,omitempty"`
	Time       time.Time `json:"time"`
	Roots      []string  `json:"roots"`
	Incomplete bool      `json:"incomplete,omitempty"`

	// Sequence numbers a host's backups in the order in which they were made, whatever the host's clock said. Store gives
	// each backup a higher number than any other backup of the host in the repository has (NextSequence). 0 means that the
	// order is not known.
	Sequence int64 `json:"sequence,omitempty"`

	// Damaged says why the description of a backup cannot be read, or what of a complete backup is not there any more:
	// people make room by removing what is large, and leave the description. List returns such a backup as incomplete, so
	// that it does not count as one that is kept, and fails neither the lists nor the backups of other hosts. If the
	// description cannot be read, List returns what the ID says (DamagedStored). Damaged is also set if it is not known
	// whether all files are still there. Present fails, unless what is left can be meant as the whole: then the backup is
	// restored by its ID, with Damaged as a warning.
	Damaged string `json:"damaged,omitempty"`

	// Machine is the Config.Machine of the Store, if the backend keeps it with each backup. keep leaves the backups of
	// another machine of the same name alone. Empty: not known.
	Machine string `json:"machine,omitempty"`

	// These say what Store did; List leaves out what it does not know.
	Files    int64    `json:"files,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`        // of the tree
	Added    int64    `json:"stored_bytes,omitempty"` // bytes by which the repository grew
	Warnings []string `json:"warnings,omitempty"`     // what was left out and need not be stored, such as sockets
}

// Presented is a backup made readable.
type Presented struct {
	// Roots maps each root of the backup to the directory where it is readable now.
	Roots map[string]string `json:"roots"`

	// Flags is the path of a file that lists the inode flags (chattr(1): i, a, d) of the backup's files and directories,
	// with one FlagLine for each that has any. If it is empty, the backend does not keep them.
	Flags string `json:"flags,omitempty"`

	// NoDevices says that all presented device nodes have the number 0:0, not their own.
	NoDevices bool `json:"no_devices,omitempty"`

	// Direct says that the files can be read with O_DIRECT at any offset and length, and that this is faster. That is so
	// on a FUSE mount.
	Direct bool `json:"direct,omitempty"`
}

// Progress says how far a backend has come.
type Progress struct {
	Label string `json:"label,omitempty"` // what the backend is doing, for people
	Done  int64  `json:"done"`            // bytes
	Total int64  `json:"total"`           // bytes; 0 if it is not known yet
	Files int64  `json:"files"`
}

// Report receives the progress of a backend. It never blocks for long. A backend may call it as often as it likes, from
// one goroutine at a time, and calls it at least every ten seconds while it works.
type Report func(Progress)
