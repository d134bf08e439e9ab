// Package rollback rolls volumes back to a set of LVM snapshots: it stops services, unmounts the volumes, has LVM merge
// the snapshots, mounts the volumes again and starts the services.
//
// Everything is checked before the first service is stopped, and checked again when nothing writes to the volumes any
// more. What fails before LVM has begun to merge is undone, and the services run again as before. Past that point of no
// return the rollback only goes forward: every member is merged, even if the process is killed or the power fails, and
// until the kernel merges every member no volume is mounted and no service is started.
//
// Each step is written to the journal before it is taken, and the code of each step asks LVM and the kernel what is
// left to do. An interrupted rollback is therefore continued by the same code: the Settle of Handler undoes it if LVM's
// metadata shows that no merge has begun, and completes it otherwise.
package rollback

import (
	"context"
	"encoding/json"
	"errors"
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

// Kind is the kind of run, and of journal entry, that is a rollback.
const Kind = "rollback"

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

// Member is one volume of a rollback. The journal keeps it, with everything that is needed to continue the rollback
// without the LVM report that it was made from.
type Member struct {
	VG         string `json:"vg"`
	LV         string `json:"lv"`       // the origin
	Snapshot   string `json:"snapshot"` // the snapshot, without its volume group
	DMName     string `json:"dm_name"`  // the device-mapper name of the origin
	SnapshotDM string `json:"snapshot_dm"`
	SnapshotID string `json:"snapshot_uuid"`
	Thin       bool   `json:"thin"`
	ThinID     int64  `json:"thin_id,omitempty"` // of a thin snapshot; after the merge, of the origin
	Pool       string `json:"pool,omitempty"`
	COWSize    int64  `json:"cow_bytes"`
	Used       int64  `json:"used_bytes"`      // how much the merge writes to the origin at most
	Crypt      string `json:"crypt,omitempty"` // the name of the LUKS mapping on the origin

	// CryptOptions are the optional parameters of the LUKS mapping's table, with which it is opened again.
	CryptOptions []string `json:"crypt_options,omitempty"`

	// Lost is true if the snapshot overflowed, or was removed, past the point of no return and before its merge began.
	Lost bool `json:"lost,omitempty"`

	// Siblings are the other thick snapshots of the origin.
	Siblings []sibling `json:"siblings,omitempty"`

	// Protect is true if the volume is made read-only until it merges. It is false for a volume that was read-only
	// already, which stays so.
	Protect bool `json:"protect,omitempty"`

	// LogOf is the device of the file system whose log this member holds, if that file system is on another member;
	// otherwise nil.
	LogOf *filesystem.Dev `json:"log_of,omitempty"`
}

func (m *Member) origin() string   { return m.VG + "/" + m.LV }
func (m *Member) snapshot() string { return m.VG + "/" + m.Snapshot }

// State is what the journal entry of a rollback keeps.
type State struct {
	Set      string            `json:"set"`
	ID       string            `json:"id"`                 // of the set; empty for snapshots that were made by hand
	Taken    time.Time         `json:"taken"`              // the instant of the set
	Restored *snapset.Restored `json:"restored,omitempty"` // the backup that the set was filled with
	Members  []*Member         `json:"members"`
	Services service.Plan      `json:"services"`

	// Automounts are the automount units of the mounts in Held.
	Automounts service.Plan `json:"automounts"`

	// Mounts are the members' mounts, in the order in which they are made again.
	Mounts []filesystem.MountSpec `json:"mounts"`

	// Quotas are the types of quotas that the kernel enforced, by mount point.
	Quotas map[string][]filesystem.QuotaType `json:"quotas,omitempty"`

	// Listed are the mount points that fstab has for the members.
	Listed []string `json:"listed"`

	// Held are the units that could open a member. systemd starts none of them while the members are unmounted.
	Held []string `json:"held"`

	// Late are the units of mounts that were made after the check. There is one list for each unit that holds them.
	Late [][]string `json:"late"`

	// SetMounts are the snapshots' mounts. They are made again only if the rollback is undone.
	SetMounts []filesystem.MountSpec `json:"set_mounts"`

	// Home is the member (vg/lv) that holds the journal. It is set only for a deferred rollback.
	Home string `json:"home,omitempty"`

	// Guarded are the units other than mounts that wait for the boot guard.
	Guarded []string `json:"guarded,omitempty"`

	Start      bool              `json:"start"`      // start the services after the rollback
	Resnapshot bool              `json:"resnapshot"` // take the same set again
	Stopped    time.Time         `json:"stopped"`    // when the first service was told to stop
	Downtime   time.Duration     `json:"downtime"`
	Failures   []service.Failure `json:"failures,omitempty"` // the services that did not start
	Trouble    []*fault.Error    `json:"trouble,omitempty"`  // other failures past the point of no return
}

// groups returns the names of the volume groups of the members, each once.
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

// rollback is a rollback that is under way or is being settled.
type rollback struct {
	Request
	server      Server
	run         *journey.Run
	commands    *command.Recorder
	lvm         *lvm.LVM
	systemd     *service.Systemd            // nil early in a boot
	forgetGuard func(context.Context) error // forgetGuardUnit; nil in tests
	state       *State
	startedAt   time.Time

	overlapLvconvert bool          // go on when the kernel merges all members, before lvconvert ends
	readyToMerge     bool          // recheck has just found all members closed and sound
	metadataDir      string        // holds LVM's metadata from before LVM was told to merge
	openLimit        time.Duration // how long deferred members may stay open before the rollback is undone
	missing          []string      // the snapshots, vg/lv, that LVM did not find when it was told to merge them
	lvconvertDone    <-chan error  // gets the result of an lvconvert that may still run; nil: none runs
	unitsStartedNow  []string      // units that an earlier run of this rollback could not start, and this run did
	warnings         []string
	lvmBackupDirs    []string   // where LVM keeps copies of its metadata; LVM changes nothing if it cannot write them
	reservedFiles    []*os.File // reserve disk space for what is still to be written
	journalErr       error      // why the last step is not in the journal although it was reached; nil if it is there
}

func (s Server) newRollback(run *journey.Run, req Request) *rollback {
	commands := command.NewRecorder(s.Sets.Runner)
	rb := &rollback{
		Request: req, server: s, run: run, commands: commands, lvm: s.LVM(commands), overlapLvconvert: true,
		startedAt: time.Now(), metadataDir: s.RuntimeDir + "/metadata", openLimit: closeLimit,
	}
	rb.forgetGuard = rb.forgetGuardUnit
	return rb
}

func (rb *rollback) connect(ctx context.Context) (err error) {
	if rb.systemd == nil {
		rb.systemd, err = rb.server.Systemd(ctx)
	}
	return err
}

func (rb *rollback) close() {
	if rb.systemd != nil {
		rb.systemd.Close()
	}
}

func (s Server) do(ctx context.Context, run *journey.Run, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	return s.Apply(ctx, run, req)
}

// Faults before the point of no return: not_found, bad_arguments, snapshot_invalid, merging, unsupported, pool_damaged,
// busy, no_key, no_space, locked, merge_failed and service_failed. Faults after it: merge_failed, snapshot_invalid,
// busy, mount_failed and service_failed. Faults at any time: timeout, interrupted, journal_damaged, command_failed and
// internal.
func (s Server) Apply(ctx context.Context, run *journey.Run, req Request) (ansible.Result, error) {
	rb := s.newRollback(run, req)
	defer rb.close()
	result, err := rb.apply(ctx)
	result.Commands = rb.commands.Commands()
	result.Warnings = rb.warnings
	return result, err
}

// Apply is Server.Apply for the server that the program runs on.
func Apply(ctx context.Context, run *journey.Run, req Request) (ansible.Result, error) {
	return thisServer().Apply(ctx, run, req)
}

func (rb *rollback) apply(ctx context.Context) (ansible.Result, error) {
	if err := rb.connect(ctx); err != nil {
		return ansible.Result{}, err
	}
	sel, earlier, err := rb.selectAndLock(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	if earlier != nil && earlier.Kind != Kind {
		return rb.answerRevertedJournal(ctx, sel, earlier)
	}
	if earlier != nil {
		return rb.answerEarlier(ctx, earlier)
	}
	f, err := rb.check(ctx, sel)
	if err != nil {
		return ansible.Result{}, err
	}
	if err := rb.findGuardedUnits(ctx, f); err != nil {
		return ansible.Result{}, err
	}
	if rb.lvmBackupDirs, err = rb.lvm.CopyDirs(ctx); err != nil {
		return ansible.Result{}, err
	}
	if err := rb.checkSpace(); err != nil {
		return ansible.Result{}, err
	}
	if rb.Check {
		return rb.preview(ctx, f)
	}
	limited, cancel := context.WithTimeout(ctx, rb.Timeout)
	defer cancel()
	if len(f.holders) > 0 { // only with Defer: otherwise check refuses
		journalMember, err := rb.findJournalMember(f)
		if err != nil {
			return ansible.Result{}, err
		}
		return rb.deferMerges(limited, journalMember)
	}
	if err := rb.execute(limited, f.toEnd); err != nil {
		return rb.result(directionOf(rb.entry().Step) != backward, rb.entry()), err
	}
	return rb.answerAndFinish(ctx, true)
}

// execute takes all steps from checked to started. The merges may go on after it.
func (rb *rollback) execute(ctx context.Context, toEnd []processToEnd) error {
	if err := rb.writeOut(ctx); err != nil {
		return err
	}
	if err := rb.reserveSpace(); err != nil {
		return err
	}
	defer rb.releaseSpace()
	rb.keepMetadata(ctx)
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), stepChecked, rb.state); err != nil {
		return rb.journalFault(err)
	}
	if err := rb.stopAndUnmount(ctx, toEnd); err != nil {
		return rb.abort(ctx, err)
	}
	if err := rb.record(stepMerging, rb.state); err != nil {
		return rb.abort(ctx, err)
	}
	return rb.mergeAndStartOrAbort(ctx)
}

// mergeAndStartOrAbort is mergeAndStart. If that fails and no merge has begun, nor can begin any more, the rollback is
// undone.
func (rb *rollback) mergeAndStartOrAbort(ctx context.Context) error {
	err := rb.mergeAndStart(ctx)
	if err == nil || rb.entry().Step != stepMerging {
		return err
	}
	if errors.Is(err, lvm.ErrUnfinished) { // it may begin the merges at any later time; settle finishes the rollback
		return rb.unknownStateFault(err)
	}
	if begun, surveyErr := rb.hasBegun(context.WithoutCancel(ctx)); begun || surveyErr != nil {
		return fault.All(err, rb.unknownStateFault(surveyErr))
	}
	return rb.abort(ctx, err)
}

// unknownStateFault returns the fault for services that stay stopped because cause keeps Rewind from finding out
// whether LVM merges. It returns nil if cause is nil.
func (rb *rollback) unknownStateFault(cause error) error {
	if cause == nil {
		return nil
	}
	return fault.New(fault.Of(cause).Code,
		"whether LVM merges cannot be found out, so the services stay down: %w", cause).
		WithHint("run the same task again: it goes on, or puts everything back; mount nothing before")
}

// answerAndFinish answers whoever asked for the rollback, and then waits until the merges are finished, so that the
// boot guard is removed as soon as possible. With Wait it answers only after that, unless something has failed.
func (rb *rollback) answerAndFinish(ctx context.Context, changed bool) (ansible.Result, error) {
	failed := rb.failure()
	rb.warnOfJournal()
	if !rb.Wait || failed != nil {
		if err := rb.run.Answer(rb.result(changed, rb.entry()), failed); err != nil {
			return rb.result(changed, rb.entry()), err
		}
	}
	rb.run.Unlock()
	err := rb.finish(ctx)
	rb.warnOfJournal()
	if failed != nil {
		return rb.result(changed, rb.entry()), failed
	}
	return rb.result(changed, rb.entry()), err
}

// failure returns what failed although the volumes are rolled back: services that did not start, or a set that was not
// taken again. It returns nil if nothing did.
func (rb *rollback) failure() error {
	var errs []error
	for _, t := range rb.state.Trouble {
		errs = append(errs, t)
	}
	for _, f := range rb.state.Failures {
		errs = append(errs, f)
	}
	err := fault.All(errs...)
	if err == nil {
		return nil
	}
	return fault.New(fault.Of(err).Code, "the volumes are rolled back, but %w", err)
}

// entry returns the journal entry of this rollback, or an empty one before the rollback is begun. While a restore with
// merge=true is under way, the run's current entry may be that of the restore; it is not returned.
func (rb *rollback) entry() *journal.Entry {
	if rb.run == nil || rb.run.Entry() == nil || rb.run.Entry().Kind != Kind {
		return &journal.Entry{}
	}
	return rb.run.Entry()
}
