package access

import (
	"errors"
	"fmt"
	"path/filepath"

	"go.pcc.com/rewind/core/snapset"
)

// Volume is one element of the argument `volumes`: a volume as lvm_snapshot takes it, or a directory that is read live.
type Volume struct {
	snapset.Volume
	Live bool `json:"live,omitempty"` // Name is a directory that is not on LVM and is stored without a snapshot
}

// DecodeArg decodes a string, a mapping as lvm_snapshot takes it, or {path: /boot, snapshot: false}. Its errors
// continue a sentence that begins with the argument's name.
func (v *Volume) DecodeArg(arg any) error {
	m, ok := arg.(map[string]any)
	if !ok || m["path"] == nil && m["snapshot"] == nil {
		return v.Volume.DecodeArg(arg)
	}
	path, isText := m["path"].(string)
	if !isText || !filepath.IsAbs(path) {
		return errors.New("is a mapping with path or snapshot: path is an absolute path, {path: /boot, snapshot: false}")
	}
	for key := range m {
		if key != "path" && key != "snapshot" && key != "size" {
			return fmt.Errorf("has an unknown key %q beside path; there are path, size, snapshot", key)
		}
	}
	v.Name = filepath.Clean(path)
	if size, ok := m["size"]; ok {
		v.Size = fmt.Sprint(size)
	}
	switch m["snapshot"] {
	case nil, true, "true", "yes":
	case false, "false", "no":
		v.Live = true
	default:
		return errors.New("snapshot: is true or false")
	}
	return nil
}

// Split returns the volumes of which snapshots are taken, and the directories that are read live.
func Split(volumes []Volume) (snapshots []snapset.Volume, live []string) {
	for _, v := range volumes {
		if v.Live {
			live = append(live, v.Name)
			continue
		}
		snapshots = append(snapshots, v.Volume)
	}
	return snapshots, live
}
