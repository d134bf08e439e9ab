package backup

import "time"

// StampLayout is the layout of the set's instant, in UTC, with which the IDs of the built-in backends begin, and those
// of tar.
const StampLayout = "20060102T150405Z"

// DamagedStored returns what is listed of a backup of the host whose description cannot be read because of err. If the
// ID does not begin with a time (StampLayout), the time is not known.
func DamagedStored(id, host string, err error) Stored {
	at, _ := time.Parse(StampLayout, id[:min(len(id), len(StampLayout))])
	return Stored{ID: id, Host: host, Time: at, Roots: []string{}, Incomplete: true, Damaged: err.Error()}
}
