package rollback

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
)

// guardFile is a file of the guard, or a symbolic link.
type guardFile struct {
	path string
	text string
	link string // the target of the symbolic link; empty for a file
}

func (f guardFile) write() error {
	if f.link != "" {
		return durable.Symlink(f.path, f.link)
	}
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(f.path, []byte(f.text), 0o644)
}

func writeFiles(files []guardFile) error {
	for _, f := range files {
		if err := f.write(); err != nil {
			return err
		}
		failpoint.Hit("rollback.guard.file")
	}
	return nil
}

// removeFile removes a file of the guard, and its directory unless that contains other files.
func (s Server) removeFile(f guardFile) error {
	if err := durable.Remove(f.path); err != nil {
		return err
	}
	if dir := filepath.Dir(f.path); dir != s.UnitDir {
		_ = os.Remove(dir)
	}
	return nil
}

// removeFiles removes files, the last first.
func (s Server) removeFiles(files []guardFile) error {
	for _, f := range slices.Backward(files) {
		if err := s.removeFile(f); err != nil {
			return err
		}
	}
	return nil
}

// sharedFiles returns the files that all rollbacks have in common.
func (s Server) sharedFiles(self string) []guardFile {
	var needs []string
	for _, dir := range guardNeeds(journey.StateDir, filepath.Dir(self)) {
		needs = append(needs, quoteForUnit(dir))
	}
	return []guardFile{
		{path: filepath.Join(s.UnitDir, guardUnit), text: fmt.Sprintf(guardText, self, strings.Join(needs, " "))},
		{path: filepath.Join(s.UnitDir, resumeUnit), text: fmt.Sprintf(resumeText, self)},
		{path: filepath.Join(s.UnitDir, "local-fs.target.wants", guardUnit), link: "../" + guardUnit},
		{path: filepath.Join(s.UnitDir, "multi-user.target.wants", resumeUnit), link: "../" + resumeUnit},
	}
}

// guardNeeds returns the directories that the guard reads, including the one that contains its program. Where one is
// reached through symbolic links, it also returns the directory to which they lead: systemd waits for the mounts on the
// way of a path as it is written, and follows no links.
func guardNeeds(stateDir, programDir string) []string {
	dirs := []string{stateDir}
	if !strings.HasPrefix(programDir+"/", stateDir+"/") {
		dirs = append(dirs, programDir)
	}
	for _, dir := range slices.Clone(dirs) {
		if resolved, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(dirs, resolved) {
			dirs = append(dirs, resolved)
		}
	}
	return dirs
}

// quoteForUnit returns a path as it is written in a list of paths in a unit file (systemd.syntax(7)).
func quoteForUnit(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if strings.Contains(path, " ") {
		return `"` + path + `"`
	}
	return path
}

// dropIns returns the drop-ins that make units require the guard.
func (s Server) dropIns(units []string) []guardFile {
	var files []guardFile
	for _, unit := range units {
		files = append(files, guardFile{path: filepath.Join(s.UnitDir, unit+".d", dropIn), text: dropInText})
	}
	return files
}

// installedDropIns returns all drop-ins of the guard that exist, of any rollback.
func (s Server) installedDropIns() ([]guardFile, error) {
	paths, err := filepath.Glob(filepath.Join(s.UnitDir, "*.d", dropIn))
	if err != nil {
		return nil, fault.New(fault.Internal, "drop-ins of the boot guard: %w", err)
	}
	var files []guardFile
	for _, path := range paths {
		files = append(files, guardFile{path: path})
	}
	return files, nil
}
