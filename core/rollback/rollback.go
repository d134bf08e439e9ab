// Package rollback is the journey of a rollback: services stopped, volumes unmounted, snapshots merged, volumes mounted,
// services started.
//
// What is promised: everything is checked before anything is stopped, and checked again when nothing writes any more;
// a "no" leaves the services running as they were, until LVM has begun to merge. From then on there is only forward:
// every member is merged, whatever happens to this process or to the power, and until the kernel merges each one
// nothing is mounted and no service is started.
//
// Each step is in the journal before it is taken, and each looks at LVM and the kernel to see what is left to do. So
// the way on after an interruption is the same code as the journey itself: the Settle of Handler walks back where
// LVM's metadata shows no merge, and on where it does.
package rollback

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// Kind is the kind of journey that rolls back.
const Kind = "rollback"

// Request is a rollback as the user asks for it.
type Request struct {
	Set           string        `json:"set"`       // a set by name, or
	Snapshots     []string      `json:"snapshots"` // snapshots, vg/lv
	Services      []string      `json:"services"`
	Auto          bool          `json:"auto"`         // the services are those that hold the mounts open
	StopHolders   bool          `json:"stop_holders"` // end other processes too
	Defer         bool          `json:"defer"`        // if a volume cannot be closed, merge at its next activation
	Wait          bool          `json:"wait"`
	Timeout       time.Duration `json:"timeout"` // of everything but the merge
	Resnapshot    bool          `json:"resnapshot"`
	StartServices bool          `json:"start_services"`
	Check         bool          `json:"check"`
	Diff          bool          `json:"diff"`
}

// name is what the journal calls the set: two requests of one name are the same rollback.
func (r Request) name() string {
	if len(r.Snapshots) == 0 {
		return r.Set
	}
	var names []string
	for _, name := range r.Snapshots {
		if vg, lv, err := lvm.ParseName(name); err == nil { // a device's path is the same snapshot
			name = vg + "/" + lv
		}
		names = append(names, name)
	}
	return join(names)
}

// Member is one volume of a rollback. It is kept in the journal, with all that is needed to go on without the report it
// was made from.
type Member struct {
	VG         string `json:"vg"`
	LV         string `json:"lv"`
	Snapshot   string `json:"snapshot"`
	DMName     string `json:"dm_name"` // of the origin
	SnapshotDM string `json:"snapshot_dm"`
	SnapshotID string `json:"snapshot_uuid"`
	Thin       bool   `json:"thin"`
	Pool       string `json:"pool,omitempty"`
	COWSize    int64  `json:"cow_bytes"`
	Used       int64  `json:"used_bytes"` // what the merge writes to the origin, at most
	Crypt      string `json:"crypt,omitempty"`
	Lost       bool   `json:"lost,omitempty"` // its COW overflowed past the point of no return, before its merge began
	Siblings   []kin  `json:"siblings,omitempty"`

	// Protect says that the volume is made read-only until it merges. One that was read-only before is left so.
	Protect bool `json:"protect,omitempty"`

	// LogOf is the device of the member's file system whose log this one holds; nil: of none.
	LogOf *filesystem.Dev `json:"log_of,omitempty"`
}

func (m *Member) origin() string   { return m.VG + "/" + m.LV }
func (m *Member) snapshot() string { return m.VG + "/" + m.Snapshot }

// State is what the journal keeps of a rollback.
type State struct {
	Set        string                 `json:"set"`
	ID         string                 `json:"id"` // of the set; empty for snapshots made by hand
	Taken      time.Time              `json:"taken"`
	Restored   *snapset.Restored      `json:"restored,omitempty"` // what the set was filled with
	Members    []*Member              `json:"members"`
	Services   service.Plan           `json:"services"`
	Automounts service.Plan           `json:"automounts"`
	Mounts     []filesystem.MountSpec `json:"mounts"`            // to be made again, in this order
	Listed     []string               `json:"listed"`            // where fstab has the members mounted
	Held       []string               `json:"held"`              // the units that systemd starts on the members' devices
	Late       [][]string             `json:"late"`              // the units of mounts that came since, by hold
	SetMounts  []filesystem.MountSpec `json:"set_mounts"`        // of the snapshots: made again only if nothing is merged
	Home       string                 `json:"home,omitempty"`    // the member that holds the journal, vg/lv; deferred only
	Guarded    []string               `json:"guarded,omitempty"` // units that wait for the boot guard, beside mounts
	Start      bool                   `json:"start"`
	Resnapshot bool                   `json:"resnapshot"`
	Stopped    time.Time              `json:"stopped"` // when the first service was told to stop
	Downtime   time.Duration          `json:"downtime"`
	Failures   []service.Failure      `json:"failures,omitempty"`
	Trouble    []*fault.Error         `json:"trouble,omitempty"` // what else failed past the point of no return
}

func (s *State) groups() []string {
	var groups []string
	seen := map[string]bool{}
	for _, m := range s.Members {
		if !seen[m.VG] {
			seen[m.VG] = true
			groups = append(groups, m.VG)
		}
	}
	return groups
}

// Handler makes and settles journeys of this kind.
func Handler() journey.Handler { return journey.Handler{Do: do, Settle: settle} }

// walk is a rollback under way, or one that is settled.
type walk struct {
	Request
	trip         *journey.Trip
	commands     *command.Recorder
	lvm          *lvm.LVM
	systemd      *service.Systemd            // nil at early boot
	forget       func(context.Context) error // forgetGuard; nil where no systemd runs
	state        *State
	begun        time.Time
	atOnce       func(context.Context, filesystem.MountSpec) error // mounts what takes no program; nil: everything takes one
	protected    func(filesystem.Dev) (bool, error)
	writeProtect func(filesystem.Dev, bool) error
	ahead        bool          // go on ahead of LVM's command that merges, when the kernel does
	ready        bool          // just now all members were closed and none was merging
	kept         string        // the directory of the metadata from before LVM was told to merge
	patience     time.Duration // how long a member may be open then, before the rollback turns back
	merger       <-chan error  // LVM's command that merges, which may still tidy up; nil: none runs
	revived      []string      // units that an earlier run of this rollback could not start, and this one did
	warnings     []string
	copies       []string   // where LVM keeps copies of its metadata, without which it changes nothing
	reserved     []*os.File // room on disk for what is still to be written
	// unwritten is why the last step, which was reached all the same, is not in the journal; nil if it is
	unwritten error
}

func newWalk(t *journey.Trip, req Request) *walk {
	commands := command.NewRecorder(command.Local{})
	w := &walk{
		Request: req, trip: t, commands: commands, lvm: lvm.New(commands).Direct(lvm.DeviceMapper),
		atOnce: filesystem.MountAtOnce, ahead: true, begun: time.Now(),
		protected: filesystem.WriteProtected, writeProtect: filesystem.WriteProtect,
		kept: journey.Run + "/metadata", patience: lookLimit,
	}
	w.forget = w.forgetGuard
	return w
}

func (w *walk) connect(ctx context.Context) (err error) {
	if w.systemd == nil {
		w.systemd, err = service.Connect(ctx)
	}
	return err
}

func (w *walk) close() {
	if w.systemd != nil {
		w.systemd.Close()
	}
}

func do(ctx context.Context, t *journey.Trip, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	return Apply(ctx, t, req)
}

// Apply rolls a set back, or with Check says what that would do. t is nil with Check.
func Apply(ctx context.Context, t *journey.Trip, req Request) (ansible.Result, error) {
	w := newWalk(t, req)
	defer w.close()
	result, err := w.apply(ctx)
	result.Commands = w.commands.Commands()
	result.Warnings = w.warnings
	return result, err
}

func (w *walk) apply(ctx context.Context) (ansible.Result, error) {
	if err := w.connect(ctx); err != nil {
		return ansible.Result{}, err
	}
	seen, earlier, err := w.look(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	if earlier != nil && earlier.Kind != Kind {
		return w.cameBack(ctx, seen, earlier)
	}
	if earlier != nil {
		return w.again(ctx, earlier)
	}
	found, err := w.check(ctx, seen)
	if err != nil {
		return ansible.Result{}, err
	}
	if err := w.findGuarded(ctx, found); err != nil {
		return ansible.Result{}, err
	}
	if w.copies, err = w.lvm.CopyDirs(ctx); err != nil {
		return ansible.Result{}, err
	}
	if err := w.checkRoom(); err != nil {
		return ansible.Result{}, err
	}
	if w.Check {
		return w.preview(ctx, found)
	}
	limited, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	if len(found.holders) > 0 { // with Defer only: check refuses otherwise
		home, err := w.journalHome(found)
		if err != nil {
			return ansible.Result{}, err
		}
		return w.deferred(limited, home)
	}
	if err := w.there(limited, found.kill); err != nil {
		return w.result(wayOf(w.entry().Step) != turnsBack, w.entry()), err
	}
	return w.rest(ctx, true)
}

// there goes from the first step to the last before the merges may go on by themselves.
func (w *walk) there(ctx context.Context, kill []condemned) error {
	if err := w.writeOut(ctx); err != nil {
		return err
	}
	if err := w.reserve(); err != nil {
		return err
	}
	defer w.release()
	w.keepMetadata(ctx)
	if err := w.trip.Begin(Kind, w.name(), w.state.groups(), stepChecked, w.state); err != nil {
		return unwritten(err)
	}
	if err := w.descend(ctx, kill); err != nil {
		return w.back(ctx, err)
	}
	if err := w.record(stepMerging, w.state); err != nil {
		return w.back(ctx, err)
	}
	return w.ascendOrTurnBack(ctx)
}

// ascendOrTurnBack ascends. If it fails and nothing was rolled back, all is as it was before.
func (w *walk) ascendOrTurnBack(ctx context.Context) error {
	err := w.ascend(ctx)
	if err == nil || w.entry().Step != stepMerging {
		return err
	}
	if begun, unknown := w.hasBegun(context.WithoutCancel(ctx)); begun || unknown != nil {
		return fault.All(err, w.stayDown(unknown))
	}
	return w.back(ctx, err)
}

// stayDown says what follows from not knowing whether LVM merges.
func (w *walk) stayDown(unknown error) error {
	if unknown == nil {
		return nil
	}
	return fault.New(fault.Of(unknown).Code,
		"whether LVM merges cannot be found out, so the services stay down: %w", unknown).
		WithHint("run the same task again: it goes on, or puts everything back; mount nothing before")
}

// rest gives the result, and stays until the merges are done so that the boot guard goes as soon as it may.
func (w *walk) rest(ctx context.Context, changed bool) (ansible.Result, error) {
	failed := w.failure()
	w.warn()
	if !w.Wait || failed != nil {
		if err := w.trip.Answer(w.result(changed, w.entry()), failed); err != nil {
			return w.result(changed, w.entry()), err
		}
	}
	w.trip.Unlock()
	err := w.finish(ctx)
	w.warn()
	if failed != nil {
		return w.result(changed, w.entry()), failed
	}
	return w.result(changed, w.entry()), err
}

// failure says what failed although the volumes are rolled back: services that did not start, a set not taken again.
func (w *walk) failure() error {
	var errs []error
	for _, t := range w.state.Trouble {
		errs = append(errs, t)
	}
	for _, f := range w.state.Failures {
		errs = append(errs, f)
	}
	err := fault.All(errs...)
	if err == nil {
		return nil
	}
	return fault.New(fault.Of(err).Code, "the volumes are rolled back, but %w", err)
}

// entry is the journal's entry of this rollback; an empty one before it is begun. That of a restore, which comes before
// its rollback, is another one.
func (w *walk) entry() *journal.Entry {
	if w.trip == nil || w.trip.Entry() == nil || w.trip.Entry().Kind != Kind {
		return &journal.Entry{}
	}
	return w.trip.Entry()
}
