package servicetest

import (
	"slices"
	"strings"
)

// PowerOff cuts the power: everything is down at once, and no function is called. Transient units are gone, what was
// read from files is forgotten, and every connection is lost.
func (f *Fake) PowerOff() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.powerOns++
	f.dir = ""
	clear(f.watchers)
	clear(f.settings)
	for name, u := range f.units {
		if !u.isAdded {
			f.remove(name)
			continue
		}
		u.Active, u.job, u.result, u.file = "inactive", nil, "", unitFile{}
		u.busy, u.runFailed, u.unloaded = false, false, false
	}
}

// Boot boots the server with a directory of units (ReadUnits), and starts the units that are Enabled and those that
// targets want by a .wants link. exec runs the programs of units that are read from files: their ExecStart= is their
// start. A unit that requires one that fails is not started (Result: dependency). If a mount fails that is Enabled
// without NoFail, so does local-fs.target, and no service with default dependencies starts: emergency mode. Boot
// returns when nothing can go on. It panics if units wait for each other.
//
// A unit that requires one that does not exist fails in the same way. systemd 257 leaves such a unit out of the boot
// instead, and those that require it, without emergency mode; 252 may even start it (src/core/transaction.c).
func (f *Fake) Boot(dir string, exec func(unit string, argv []string) error) {
	f.PowerOff()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dir, f.exec = dir, exec
	targets := []string{localFS, sysinit, "multi-user.target"}
	for _, name := range names(dir) {
		if target, ok := strings.CutSuffix(name, ".wants"); ok && strings.HasSuffix(target, ".target") {
			targets = append(targets, target)
		}
	}
	for _, target := range targets {
		if f.units[target] == nil {
			f.add(target, "inactive").isAdded = true
		}
	}
	f.reload()
	pulled := map[string]*Unit{}
	for name, u := range f.all() {
		if u.Enabled || has(targets, name) {
			f.pullAtBoot(name, pulled)
		}
	}
	f.queueBoot(pulled)
	f.runJobs()
}

// pullAtBoot adds to pulled what there is of a unit and of all that it requires and wants.
func (f *Fake) pullAtBoot(name string, pulled map[string]*Unit) {
	u := f.load(name)
	if u == nil || u.Load != "loaded" || pulled[name] != nil {
		return
	}
	pulled[name] = u
	for _, other := range slices.Concat(f.needs(u), f.related(u, "Wants")) {
		f.pullAtBoot(other, pulled)
	}
}

// queueBoot queues the starts of a boot. Units whose needs do not exist fail.
func (f *Fake) queueBoot(pulled map[string]*Unit) {
	for name, u := range f.all() {
		if pulled[name] != nil {
			f.queue(u, "start", nil)
		}
	}
	f.mustHaveNoCycle()
	for _, u := range f.all() {
		isLacking := func(needed string) bool { return pulled[needed] == nil }
		if u.job != nil && slices.ContainsFunc(f.needs(u), isLacking) {
			f.endJob(u, "dependency")
		}
	}
}

// mustHaveNoCycle panics if jobs wait for each other. systemd would leave one of them out, which must not be left to
// chance.
func (f *Fake) mustHaveNoCycle() {
	done := map[string]bool{}
	var visit func(u *Unit, path []string)
	visit = func(u *Unit, path []string) {
		if i := slices.Index(path, u.name); i >= 0 {
			panic("servicetest: units wait for each other: " + strings.Join(append(path[i:], u.name), " -> "))
		}
		if done[u.name] {
			return
		}
		path = append(path, u.name)
		for _, other := range f.all() {
			if other != u && other.job != nil && f.isAfter(u, other) {
				visit(other, path)
			}
		}
		done[u.name] = true
	}
	for _, u := range f.all() {
		if u.job != nil {
			visit(u, nil)
		}
	}
}
