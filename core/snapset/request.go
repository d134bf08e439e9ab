package snapset

import (
	"time"

	"go.pcc.com/rewind/core/journey"
)

// The states that a set can be asked to be in.
const (
	Present   = "present"
	Absent    = "absent"
	Mounted   = "mounted"
	Unmounted = "unmounted"
)

// Request is what lvm_snapshot asks of a set. It is passed to the run as JSON.
type Request struct {
	State         string        `json:"state"` // Present, Absent, Mounted or Unmounted
	Set           string        `json:"set"`   // its name
	Volumes       []Volume      `json:"volumes"`
	Size          string        `json:"size"`           // of each COW space, as lvm.ParseSize reads it; empty: the default
	Each          bool          `json:"each"`           // consistency=volume: each volume at an instant of its own
	FreezeTimeout time.Duration `json:"freeze_timeout"` // how long writes may wait
	Replace       bool          `json:"replace"`        // take an overflowed set again
	Mount         MountOptions  `json:"mount"`
	Check         bool          `json:"check"` // only say what would be done
	Use           Use           `json:"use,omitempty"`
	NoPostgreSQL  bool          `json:"no_postgresql,omitempty"` // do not look for PostgreSQL clusters
}

// Limit is how long the run may take. Two of its waits for dirty pages may each take flushLimit.
func (r Request) Limit() time.Duration {
	return journey.LockWait + 2*flushLimit + 2*r.FreezeTimeout + 5*time.Minute
}

// description is the command that asked for this. Other runs name it when they wait for this run's locks.
func (r Request) description() string {
	switch r.Use {
	case ForBackup:
		return "snap_backup action=backup name=" + r.Set
	case ForRestore:
		return "snap_backup action=restore name=" + r.Set
	}
	return "lvm_snapshot " + r.State + " " + r.Set
}

// doneOrWould returns the verb for what was done, or with Check "would" and the verb for what would be done.
func (r Request) doneOrWould(done, would string) string {
	if r.Check {
		return "would " + would
	}
	return done
}
