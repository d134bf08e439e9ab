package filesystem

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// crypttab is where systemd and cryptsetup are told how a device is opened at boot (crypttab(5)).
const crypttab = "/etc/crypttab"

// cryptEntry is one line of crypttab.
type cryptEntry struct {
	name, device, key string
	options           []string
}

// parseCrypttab reads the lines of a crypttab; comments and short lines are passed over.
func parseCrypttab(text string) []cryptEntry {
	var entries []cryptEntry
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		e := cryptEntry{name: fields[0], device: fields[1]}
		if len(fields) > 2 && fields[2] != "none" && fields[2] != "-" {
			e.key = fields[2]
		}
		if len(fields) > 3 {
			e.options = strings.Split(fields[3], ",")
		}
		entries = append(entries, e)
	}
	return entries
}

// keyOf returns the key file that opens a crypt device without a person, or a no_key fault.
func keyOf(name string) (string, error) {
	data, err := os.ReadFile(crypttab)
	if err != nil && !os.IsNotExist(err) {
		return "", fault.New(fault.NoKey, "%s: %w", crypttab, err)
	}
	hint := "give it a key file in " + crypttab + ", so that it can be opened again without a person"
	for _, e := range parseCrypttab(string(data)) {
		if e.name != name {
			continue
		}
		for _, o := range e.options {
			if strings.HasPrefix(o, "keyfile-offset=") || strings.HasPrefix(o, "keyfile-size=") || strings.HasPrefix(o, "header=") {
				return "", fault.New(fault.NoKey, "%s in %s has the option %s, which is not supported", name, crypttab, o)
			}
		}
		if filepath.IsAbs(e.key) && !strings.HasPrefix(e.key, "/dev/") {
			return e.key, nil
		}
		return "", fault.New(fault.NoKey, "%s has no key file in %s", name, crypttab).WithHint("%s", hint)
	}
	return "", fault.New(fault.NoKey, "%s is not in %s", name, crypttab).WithHint("%s", hint)
}

// keyLimit bounds a proof or an opening: Argon2 takes seconds, on a slow machine tens of them.
const keyLimit = 3 * time.Minute

// ProveKey proves that the key that crypttab names for a crypt device opens the LUKS header on device. Nothing is
// changed. no_key if there is none, or it does not fit.
func ProveKey(ctx context.Context, r command.Runner, name, device string) error {
	key, err := keyOf(name)
	if err != nil {
		return err
	}
	_, err = r.Run(ctx, command.Cmd{
		Argv: []string{"cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", key, "--", device}, Limit: keyLimit,
	})
	if err != nil {
		return fault.New(fault.NoKey, "the key file %s does not open %s: %w", key, device, err).
			WithHint("crypttab must name the key that opens it: cryptsetup open --test-passphrase --key-file %s %s", key, device)
	}
	return nil
}

// OpenCrypt opens a crypt device with the key that crypttab names for it. exists if it is open.
func OpenCrypt(ctx context.Context, r command.Runner, name, device string) error {
	if isOpen(name) {
		return fault.New(fault.Exists, "crypt device %s is open", name)
	}
	key, err := keyOf(name)
	if err != nil {
		return err
	}
	_, err = r.Run(ctx, command.Cmd{
		Argv:  []string{"cryptsetup", "open", "--batch-mode", "--key-file", key, "--", device, name},
		Limit: keyLimit, Changes: true,
	})
	if err != nil {
		return fault.New(fault.MountFailed, "open crypt device %s on %s: %w", name, device, err).
			WithHint("by hand: cryptsetup open --key-file %s %s %s, and mount what is on it", key, device, name)
	}
	return nil
}

// CloseCrypt closes a crypt device; one that is not open is no error. busy if it is in use.
func CloseCrypt(ctx context.Context, r command.Runner, name string) error {
	if !isOpen(name) {
		return nil
	}
	_, err := r.Run(ctx, command.Cmd{Argv: []string{"cryptsetup", "close", "--", name}, Changes: true})
	if err != nil && isOpen(name) {
		return fault.New(fault.Busy, "close crypt device %s: %w", name, err).
			WithHint("`lsof /dev/mapper/%s` and `dmsetup ls --tree` show what has it open", name)
	}
	return nil
}

func isOpen(name string) bool {
	_, err := os.Stat("/dev/mapper/" + name)
	return err == nil
}
