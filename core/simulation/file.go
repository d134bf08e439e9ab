package simulation

import (
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// machines has every machine by the directory of its files.
var machines sync.Map

// BeforeFile is durable.BeforeChange for the files of all machines.
func BeforeFile(path string) error {
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		found, ok := machines.Load(dir)
		if !ok {
			continue
		}
		m := found.(*machine)
		p := m.process.Load()
		if p == nil {
			return nil
		}
		name := withoutIDs(strings.TrimPrefix(path, dir+"/"))
		err := p.do("file "+name, func() error { return nil }, nil)
		if err == errInjected {
			return unix.EIO
		}
		return err
	}
	return nil
}

var runID = regexp.MustCompile(`\d{8}t\d{6}-\d{6}-[0-9a-f]{6}(-\d+)?`)

// plain replaces what differs in texts from machine to machine and from run to run.
func (m *machine) plain(text string) string { return withoutIDs(strings.ReplaceAll(text, m.dir, "")) }

// withoutIDs replaces what differs in texts from run to run.
func withoutIDs(text string) string { return runID.ReplaceAllString(text, "ID") }
