package schedule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/trust"
)

// file is a file as it should be. A file with an empty text should not exist.
type file struct {
	path, text string
	mode       os.FileMode
}

// isPrivate reports whether f is a regular file and its mode allows no more than f.mode.
func isPrivate(f file) bool {
	info, err := os.Lstat(f.path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&^f.mode == 0
}

func (f file) write() error {
	if f.text == "" {
		return durable.Remove(f.path)
	}
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(f.path, []byte(f.text), f.mode)
}

func writeAll(files []file) error {
	for _, f := range files {
		if err := f.write(); err != nil {
			return fault.New(fault.Internal, "%w", err)
		}
	}
	return nil
}

func (p Places) argumentsPath(name string) string { return filepath.Join(p.Arguments, name+".json") }

func (p Places) dropInPath(name string) string {
	return filepath.Join(p.Units, Timer(name)+".d", dropIn)
}

// enabledPath returns the path of the link by which systemd starts the timer at boot. "systemctl disable" removes it as
// long as there is a unit.
func (p Places) enabledPath(name string) string {
	return filepath.Join(p.Units, "timers.target.wants", Timer(name))
}

// removeUnusedUnits removes the template units that this package wrote, unless something of a schedule is left.
func (p Places) removeUnusedUnits() error {
	for _, pattern := range []string{p.argumentsPath("*"), filepath.Dir(p.dropInPath("*")), p.enabledPath("*")} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			return err
		}
	}
	ours, err := p.changedFiles([]file{{path: filepath.Join(p.Units, timer)}, {path: filepath.Join(p.Units, service)}})
	if err != nil {
		return err
	}
	return writeAll(ours)
}

// backupArguments returns the arguments of the backup itself, without those that say when it is made.
func (s Schedule) backupArguments() map[string]any {
	arguments := maps.Clone(s.Arguments)
	for _, name := range []string{"action", "calendar", "spread"} {
		delete(arguments, name)
	}
	arguments["name"] = s.Name
	return arguments
}

// wantedFiles returns the files of a schedule as they should be. The drop-in is last, because it is what makes the
// timer start backups.
func (p Places) wantedFiles(s Schedule) ([]file, error) {
	data, err := json.MarshalIndent(s.backupArguments(), "", "  ")
	if err != nil {
		return nil, fault.New(fault.Internal, "the arguments are not fit for JSON") // the error would quote them
	}
	units := []file{
		{filepath.Join(p.Units, service), fmt.Sprintf(serviceUnit, s.Program), 0o644},
		{filepath.Join(p.Units, timer), timerUnit, 0o644},
	}
	if p.hasPackage() {
		units[0].text, units[1].text = "", "" // they would hide the units of the package
	}
	timerDropIn := file{p.dropInPath(s.Name), fmt.Sprintf(dropInText, s.Calendar, int64(s.Spread.Seconds())), 0o644}
	return append(units, file{p.argumentsPath(s.Name), string(data) + "\n", 0o600}, timerDropIn), nil
}

// checkTrusted refuses a directory in which others than root could write, because they could choose the arguments of
// programs that root runs.
func checkTrusted(dir string) error {
	changeable := (*trust.Error)(nil)
	err := trust.Dir(dir)
	if errors.As(err, &changeable) {
		return fault.New(fault.Unsupported, "%w, and root would do what stands in %s", err, dir).
			WithHint("%s", changeable.Remedy())
	}
	if err != nil {
		return fault.New(fault.Internal, "%w", err)
	}
	return nil
}

// changedFiles returns those of the files that are not as they should be. It returns the fault exists for a unit file
// that an administrator wrote and that would have to be overwritten; one that should not exist is left alone.
func (p Places) changedFiles(files []file) (list []file, err error) {
	for _, f := range files {
		current, err := os.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if f.text != "" {
				list = append(list, f)
			}
		case err != nil:
			return nil, fault.New(fault.Internal, "%w", err)
		case string(current) == f.text && isPrivate(f):
		case filepath.Ext(f.path) != ".json" && !bytes.HasPrefix(current, []byte(fileHeader)):
			if f.text != "" {
				return nil, fault.New(fault.Exists, "%s exists, and snap_backup did not write it", f.path).
					WithHint("move it away, and run the same again")
			}
		default:
			list = append(list, f)
		}
	}
	return list, nil
}
