package simulation

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var mutate = flag.Bool("mutations", false, "take mends back, one at a time, and search for what they mended: minutes")

// mutation replaces a text in a source file.
type mutation struct{ name, file, from, to string }

// mutations take back what a fault once taught, or what the code is careful of. The search must find each of them.
var mutations = []mutation{
	{"a plain resume makes the table live that a killed command has prepared", "lvm/devmapper.go",
		"mapping.Suspended && !mapping.Prepared", "mapping.Suspended"},
	{"a table that cannot be dropped is made live", "lvm/devmapper.go",
		"if err := m.Clear(device); err != nil {\n\t\treturn err\n\t}",
		"if err := m.Clear(device); err != nil {\n\t\t_ = m.Resume(device)()\n\t\treturn err\n\t}"},
	{"a lock that was not taken is released", "lvm/instant.go",
		"if err != nil {\n\t\t\treturn nil, fault.All(err, i.Close())\n\t\t}\n\t\ti.locks = locks",
		"i.locks = locks\n\t\tif err != nil {\n\t\t\treturn nil, fault.All(err, i.Close())\n\t\t}"},
	{"writes wait for longer than freeze_timeout", "lvm/take.go",
		"func() { t.abort(&t.limitReached) }", "func() { t.limitReached.Store(true) }"},
	{"the undoing of an extension removes the set", "snapset/extend.go",
		"plan := &Plan{Set: s.Set, Members", "plan := &Plan{Set: s.Set, ID: s.ID, Members"},
	{"settling repairs no origin", "snapset/undo.go",
		"return l.Unsuspend(ctx, p.originsByDevice())", "return nil"},
	{"nobody resumes what a killed run has suspended before its unit settles it", "snapset/settle.go",
		"return p.resumeWrites(s.LVM(s.Runner))", "_ = p\n\treturn nil"},
	{"a set looks whole before its instant", "snapset/plan.go",
		"label.Count = 0", "label.Count = len(p.Members)"},
	{"an entry is closed though something is left", "snapset/failed.go",
		"if errors.Is(err, errLeftover) || mayHoldVolume(err) {", "if mayHoldVolume(err) {"},
	{"a removal is not journaled", "snapset/remove.go",
		"return fault.All(err, plan.repairOrigins(ctx, l)) // the open entry is settled when this run has ended",
		"return fault.All(err, run.Finish(\"kept\", journal.Undone, nil))"},
	{"settling leaves the reserve file", "snapset/settle.go", "_ = os.Remove(s.journalReserve(p.ID))", "_ = os.Remove"},
	{"the name of a set does not lead to what is left of it", "journey/journey.go",
		" || slices.Contains(groups, SetLock(e.Set))", ""},
	{"thin snapshots are made while writes go on", "lvm/take.go",
		"for _, m := range t.members {\n\t\tif err := t.makeSnapshot(m)",
		"for _, m := range t.members {\n\t\tt.resumeAll()\n\t\tif err := t.makeSnapshot(m)"},
	{"check removes an overflowed set", "snapset/replace.go", "if op.Check {\n\t\tremoveFromReport",
		"if false {\n\t\tremoveFromReport"},
}

// mutationsOfRollback are the same for rollbacks.
var mutationsOfRollback = []mutation{
	{"`merging` counts as merged before LVM merges", "rollback/step.go",
		"{stepMerging, lvmDecides}", "{stepMerging, forward}"},
	{"a begun merge is undone", "rollback/step.go", "{stepMerging, lvmDecides}", "{stepMerging, backward}"},
	{"what is not merged is taken back after the others have merged", "rollback/survey.go",
		"return !isUntouched, nil", "return false, nil"},
	{"the guard's drop-ins are written before the guard", "rollback/guard.go",
		"return append(g.server.sharedFiles(self), g.server.dropIns(g.state.guardedUnits())...), nil",
		"return append(g.server.dropIns(g.state.guardedUnits()), g.server.sharedFiles(self)...), nil"},
	{"only mounts wait for the guard", "rollback/state.go",
		"return append(units, except(st.Guarded, units)...)", "return units"},
	{"the journal must be writable after the merge began", "rollback/steps.go",
		"	rb.steps.enter(stepMounting)\n",
		"	if err := rb.steps.record(stepMounting, rb.state); err != nil {\n\t\treturn err\n\t}\n"},
	{"undoing must be recorded", "rollback/steps.go",
		"	rb.steps.enter(stepUndoing)\n	err := rb.merges.resumeSuspended(ctx)",
		"	err := rb.steps.record(stepUndoing, rb.state)\n	if err != nil {\n\t\treturn err\n\t}\n" +
			"	err = rb.merges.resumeSuspended(ctx)"},
	{"what a killed lvconvert has suspended is mounted", "rollback/steps.go",
		"	err := rb.merges.resumeSuspended(ctx) //", "	err := error(nil) //"},
	{"members stay read-only", "rollback/merges.go", "if unprotectErr := mg.volumes.unprotect(ctx); err == nil {",
		"if unprotectErr := error(nil); err == nil {"},
	{"undoing mounts nothing", "rollback/steps.go",
		"err = rb.volumes.openAndMount(mountCtx, rb.state.Mounts)", "_ = mountCtx"},
	{"the guard stays after an undoing", "rollback/steps.go",
		"	if err := rb.guard.remove(ctx); err != nil {\n\t\treturn err\n\t}\n	err := rb.run.Finish(stepUndone",
		"	err := rb.run.Finish(stepUndone"},
	{"services start that were down before", "service/plan.go", "if isUp {", "if isUp || true {"},
	{"holds are not released", "rollback/hold.go", "errs = append(errs, h.release(ctx, otherHold))", "_ = otherHold"},
	{"services start before the mounts", "rollback/steps.go",
		"	if err := rb.volumes.openAndMount(ctx, rb.state.Mounts); err != nil {",
		"	_ = rb.startServices(ctx)\n	if err := rb.volumes.openAndMount(ctx, rb.state.Mounts); err != nil {"},
	{"the boot guard merges nothing", "rollback/boot.go",
		"	if err := rb.merges.begin(ctx); err != nil {\n\t\treturn err\n\t}\n	// With", "	// With"},
	{"a member that LVM has refused is left out", "rollback/merges.go", "case err != nil || len(notBegun) == 0:",
		"case err != nil || len(notBegun) < len(mg.state.Members):"},
	{"suspended origins are not resumed after a killed merge", "rollback/merges.go",
		"return nil, nil, mg.resumeSuspended(limited)", "return nil, nil, nil"},
}

// source returns the path and the text of the file that the mutation changes. It fails the test unless the text has
// what is changed exactly once.
func (m mutation) source(t *testing.T) (file, text string) {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", m.file))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), m.from); n != 1 {
		t.Fatalf("%s has %q %d times", m.file, m.from, n)
	}
	return file, string(data)
}

// TestMutationsFitTheSource looks, without a search, whether the source still has what the mutations change.
func TestMutationsFitTheSource(t *testing.T) {
	for _, m := range slices.Concat(mutations, mutationsOfRollback) {
		t.Run(m.name, func(t *testing.T) { m.source(t) })
	}
}

func TestMutationsAreFound(t *testing.T) {
	if !*mutate {
		t.Skip("each is built and searched: -mutations")
	}
	t.Run("TestSets", func(t *testing.T) { mustAllBeFound(t, mutations) })
	t.Run("TestRollbacks", func(t *testing.T) { mustAllBeFound(t, mutationsOfRollback) })
}

// mustAllBeFound has the search of the test's own name find each of the mutations.
func mustAllBeFound(t *testing.T, list []mutation) {
	search := filepath.Base(t.Name())
	for _, m := range list {
		t.Run(m.name, func(t *testing.T) { m.mustBeFound(t, search) })
	}
}

func (m mutation) mustBeFound(t *testing.T, search string) {
	file, text := m.source(t)
	out := searchWith(t, search, file, strings.Replace(text, m.from, m.to, 1))
	rule := regexp.MustCompile(`(?m)^ *simulation_test.go:\d+: (.*)$`).FindStringSubmatch(out)
	seed := regexp.MustCompile(`(?m)^ *seed (\d+)$`).FindStringSubmatch(out)
	if rule == nil || seed == nil {
		t.Errorf("not found\n%s", out)
		return
	}
	t.Logf("seed %s: %s", seed[1], rule[1])
}

// searchWith runs the search in a program that has another text in the place of a file.
func searchWith(t *testing.T, name, file, text string) string {
	t.Helper()
	dir := t.TempDir()
	other, overlay := filepath.Join(dir, "other.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{file: other}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{other: []byte(text), overlay: list} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	search := []string{"test", "-overlay", overlay, "-timeout", "5m", "-run", name, ".", "-seeds", strconv.Itoa(*seeds)}
	out, err := exec.Command("go", search...).CombinedOutput()
	if err == nil {
		t.Error("the search ends without a failure")
	}
	return string(out)
}
