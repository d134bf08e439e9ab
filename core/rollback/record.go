package rollback

import (
	"os"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// stepRecorder writes the steps to the journal, and sets disk space aside for everything that a rollback writes.
type stepRecorder struct {
	*base
	lvmBackupDirs []string   // where LVM keeps copies of its metadata; LVM changes nothing if it cannot write them
	reservedFiles []*os.File // reserve disk space for what is still to be written
	journalErr    error      // why the last step is not in the journal although it was reached; nil if it is there
}

// record writes a step to the journal. If that fails, record frees the reserved space and tries once more.
func (r *stepRecorder) record(step string, state any) error {
	err := r.run.Record(step, state)
	if err != nil && r.releaseSpace() {
		err = r.run.Record(step, state)
	}
	return r.journalFault(err)
}

// enter is record for a step that counts even if it cannot be written: past the point of no return, and while
// undoing. The error goes into the result as a warning, and the next step tries to write again.
func (r *stepRecorder) enter(step string) {
	r.journalErr = r.record(step, r.state)
	r.entry().Step = step
}

// journalFault returns err, the failure of a write to the journal, as no_space with a hint if the disk is full.
func (r *stepRecorder) journalFault(err error) error {
	if !durable.IsFull(err) {
		return err
	}
	return fault.New(fault.NoSpace, "%w", err).WithHint("make room: df -h %[1]s; df -i %[1]s", r.server.JournalDir)
}

// warnOfJournal adds a warning to the result if the last step could not be written to the journal.
func (r *stepRecorder) warnOfJournal() {
	if r.journalErr == nil {
		return
	}
	r.warnings = append(r.warnings,
		"the last step could not be written to the journal, and the next run writes it: "+r.journalErr.Error())
	r.journalErr = nil
}
