package servicetest

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unitFile is what was read of a unit: its file, its drop-ins and the links in its .wants directory.
type unitFile struct {
	path     string              // of its file; empty: it has none
	deps     map[string][]string // by property
	settings map[string]string   // all other lines, such as ExecStart
}

// ReadUnits has systemd use a directory of units from now on, and read it as at boot. There are files such as
// NAME.service, drop-ins such as NAME.service.d/*.conf, and links such as NAME.target.wants/OTHER. Later changes are
// seen by a reload and at boot, and when somebody asks for a unit that is not loaded. Before the first Boot, a program
// that such a file names does nothing.
func (f *Fake) ReadUnits(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dir = dir
	f.reload()
}

// Unload has systemd unload a unit that is down, as it may do at any time if no other unit refers to it. The unit's
// files are read when somebody asks for it next.
func (f *Fake) Unload(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.mustFind(name)
	if !u.isDown() || u.job != nil {
		panic("servicetest: a unit that runs is not unloaded: " + name)
	}
	u.unloaded, u.file = true, unitFile{}
}

// reload reads the files of all loaded units again.
func (f *Fake) reload() {
	for _, u := range f.all() {
		if u.isTransient {
			continue
		}
		hasFile := f.read(u)
		if u.isAdded {
			continue
		}
		u.Load = "loaded"
		if !hasFile { // it stays until it is down
			u.Load = "not-found"
		}
	}
	f.collect()
}

// load returns a unit, which is read from its files unless it is loaded. It returns nil if there is no such unit.
func (f *Fake) load(name string) *Unit {
	u := f.units[name]
	switch {
	case u == nil && !f.hasFile(name):
		return nil
	case u == nil:
		u = f.add(name, "inactive")
		f.read(u)
	case u.unloaded:
		u.unloaded = false
		f.read(u)
	}
	return u
}

func (f *Fake) hasFile(name string) bool {
	if f.dir == "" {
		return false
	}
	info, err := os.Lstat(filepath.Join(f.dir, name))
	return err == nil && info.Mode().IsRegular()
}

// read reads all that is written about a unit, loads the units that are named there, and reports whether the unit has a
// file.
func (f *Fake) read(u *Unit) bool {
	u.file = unitFile{deps: map[string][]string{}, settings: map[string]string{}}
	if f.dir == "" {
		return false
	}
	at := filepath.Join(f.dir, u.name)
	if f.hasFile(u.name) {
		u.file.path = at
		u.file.read(at)
	}
	for _, name := range names(at + ".d") {
		if strings.HasSuffix(name, ".conf") {
			u.file.read(filepath.Join(at+".d", name))
		}
	}
	u.file.deps["Wants"] = append(u.file.deps["Wants"], names(at+".wants")...)
	for _, property := range slices.Sorted(maps.Keys(u.file.deps)) {
		for _, name := range u.file.deps[property] {
			f.load(name)
		}
	}
	return u.file.path != ""
}

// read reads a file of a unit. Lines that add to a list add to it in a drop-in too; of others the last one counts.
func (file *unitFile) read(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		panic("servicetest: " + err.Error())
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		key, value, isSetting := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "["):
			section = line
		case !isSetting || strings.HasPrefix(line, "#") || section == "[Install]":
		case opposite[key] != "" || key == "RequiresMountsFor":
			file.deps[key] = append(file.deps[key], strings.Fields(value)...)
		default:
			file.settings[key] = value
		}
	}
}

// names returns the names of the files in a directory, sorted; none if there is no such directory.
func names(dir string) (all []string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic("servicetest: " + err.Error())
	}
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

// collect removes the units that systemd does not keep: transient ones that are down, and those that were read from
// files, are down and are named by no unit that is kept.
func (f *Fake) collect() {
	kept := map[*Unit]bool{}
	var keep func(u *Unit)
	keep = func(u *Unit) {
		if u == nil || kept[u] {
			return
		}
		kept[u] = true
		for _, deps := range []map[string][]string{u.Deps, u.file.deps} {
			for _, list := range deps {
				for _, name := range list {
					keep(f.units[name])
				}
			}
		}
	}
	for _, u := range f.all() {
		hasFailed := u.Active == "failed" && !u.isTransient // systemd keeps the failure (CollectMode=)
		if u.isAdded || u.job != nil || !u.isDown() || hasFailed {
			keep(u)
		}
	}
	for name, u := range f.all() {
		if !kept[u] || u.isTransient && u.isDown() && u.job == nil {
			f.remove(name)
		}
	}
}
