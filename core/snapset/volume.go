package snapset

import (
	"fmt"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// Volume is one element of the argument `volumes`: a string (a mount point, vg/lv or a device path), or a mapping with
// more details.
type Volume struct {
	Name       string // as the user wrote it; for a mapping vg/lv
	Size       string // of this volume's COW space; empty: as for the set
	Mountpoint string // where this volume's snapshot is mounted; empty: as for the set
	Options    string // mount options; empty: as for the set
}

// DecodeArg decodes one element of `volumes`: a string or a mapping {vg, lv, size, mountpoint, options}. Its error
// completes a sentence that begins with the argument's name.
func (v *Volume) DecodeArg(arg any) error {
	switch a := arg.(type) {
	case string:
		v.Name = strings.TrimSpace(a)
	case map[string]any:
		if err := v.decodeMap(a); err != nil {
			return err
		}
	default:
		return fmt.Errorf("is a %T; each volume is a mount point, vg/lv, a device path, "+
			"or a mapping of vg, lv, size, mountpoint, options", arg)
	}
	if v.Name == "" {
		return fmt.Errorf("holds an empty volume")
	}
	if v.Name[0] == '/' {
		v.Name = filepath.Clean(v.Name) // a shell's completion ends a directory with a slash
	}
	return nil
}

func (v *Volume) decodeMap(m map[string]any) error {
	var vg, lv string
	fields := map[string]*string{"vg": &vg, "lv": &lv, "size": &v.Size, "mountpoint": &v.Mountpoint, "options": &v.Options}
	for key, value := range m {
		field, ok := fields[key]
		if !ok {
			return fmt.Errorf("has an unknown key %q; a mapping has vg, lv, size, mountpoint, options", key)
		}
		text, err := scalarText(value)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		*field = text
	}
	if v.Mountpoint != "" && v.Mountpoint[0] != '/' {
		return fmt.Errorf("mountpoint: %q is not an absolute path", v.Mountpoint)
	}
	if vg == "" || lv == "" {
		return fmt.Errorf("is a mapping without vg or lv")
	}
	v.Name = vg + "/" + lv
	return nil
}

// scalarText returns a value of YAML as text. A size of 512 is a number in YAML, and options may be a list.
func scalarText(value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return strings.TrimSpace(v), nil
	case []any:
		var words []string
		for _, e := range v {
			w, err := scalarText(e)
			if err != nil {
				return "", err
			}
			words = append(words, w)
		}
		return strings.Join(words, ","), nil
	case map[string]any, bool:
		return "", fmt.Errorf("is not a word")
	}
	return fmt.Sprint(value), nil
}

// Problems says what is wrong with the volume's size. Fault: bad_arguments.
func (v Volume) Problems() error {
	if v.Size == "" {
		return nil
	}
	if _, err := lvm.ParseSize(v.Size); err != nil {
		return fault.New(fault.BadArguments, "volumes: %s: %w", v.Name, err)
	}
	return nil
}

// CheckArguments checks the arguments that all modules which take sets have in common, and names everything that is
// wrong. size is that of each COW space, empty for the default. freezeTimeout is how many seconds writes may wait, 1 to
// 600. Fault: bad_arguments.
func CheckArguments[V interface{ Problems() error }](size string, volumes []V, freezeTimeout int) error {
	var errs []error
	if _, err := lvm.ParseSize(size); size != "" && err != nil {
		errs = append(errs, ansible.Bad("size", "%v", err))
	}
	for _, v := range volumes {
		if err := v.Problems(); err != nil {
			errs = append(errs, ansible.Bad("volumes", "%v", err))
		}
	}
	if freezeTimeout < 1 || freezeTimeout > 600 {
		errs = append(errs, ansible.Bad("freeze_timeout", "is %d; it is 1 to 600 seconds", freezeTimeout))
	}
	return fault.All(errs...)
}
