package rollback

import (
	"time"

	"go.pcc.com/rewind/core/lvm"
)

// Request is a rollback as the user asks for it.
type Request struct {
	Set           string        `json:"set"`       // the name of a set; used if Snapshots is empty
	Snapshots     []string      `json:"snapshots"` // single snapshots, vg/lv or the path of their device
	Services      []string      `json:"services"`
	Auto          bool          `json:"auto"`           // also stop the services that hold the volumes open
	StopHolders   bool          `json:"stop_holders"`   // also end other processes that hold the volumes open
	Defer         bool          `json:"defer"`          // if a volume cannot be closed, merge at its next activation
	Wait          bool          `json:"wait"`           // answer only when the merges are finished
	Timeout       time.Duration `json:"timeout"`        // from the first step until the merge begins
	Resnapshot    bool          `json:"resnapshot"`     // take the same set again after the merge
	NoPostgreSQL  bool          `json:"no_postgresql"`  // do not look for PostgreSQL clusters
	StartServices bool          `json:"start_services"` // false leaves the services stopped
	Check         bool          `json:"check"`          // change nothing, only say what would be done
	Diff          bool          `json:"diff"`           // with Check: also name the files that would change
}

// name returns the name under which the journal knows the rollback: two requests with the same name ask for the same
// rollback.
func (r Request) name() string {
	if len(r.Snapshots) == 0 {
		return r.Set
	}
	var names []string
	for _, name := range r.Snapshots {
		if vg, lv, err := lvm.ParseName(name); err == nil { // vg/lv and the path of the device name the same snapshot
			name = vg + "/" + lv
		}
		names = append(names, name)
	}
	return joinSorted(names)
}
