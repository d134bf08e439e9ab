package filesystem

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// crypttab is the file that tells systemd and cryptsetup how to open encrypted devices at boot (crypttab(5)).
const crypttab = "/etc/crypttab"

// cryptEntry is one line of crypttab.
type cryptEntry struct {
	name, device, key string
	options           []string
}

// parseCrypttab parses the lines of a crypttab. Comments and lines with fewer than two fields are skipped.
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

// readCrypttab returns the entries of crypttab, and none if there is no such file.
func readCrypttab() ([]cryptEntry, error) {
	data, err := os.ReadFile(crypttab)
	if os.IsNotExist(err) {
		return nil, nil
	}
	return parseCrypttab(string(data)), err
}

// KeyFile returns the path of the key file that crypttab has for a crypt device. Fault: no_key if there is none.
func KeyFile(name string) (string, error) {
	entries, err := readCrypttab()
	if err != nil {
		return "", fault.New(fault.NoKey, "%s: %w", crypttab, err)
	}
	hint := "give it a key file in " + crypttab + ", so that it can be opened again without a person"
	for _, e := range entries {
		if e.name != name {
			continue
		}
		for _, o := range e.options {
			if strings.HasPrefix(o, "keyfile-offset=") || strings.HasPrefix(o, "keyfile-size=") ||
				strings.HasPrefix(o, "header=") {
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

// CryptWarning returns a warning if crypttab opens the crypt device of that name on a device that it names by its
// content: a snapshot of the volume has the same UUID. It returns "" if it does not.
func CryptWarning(name, volume string) string {
	entries, _ := readCrypttab() // KeyFile says why it cannot be read
	return cryptWarning(entries, name, volume)
}

func cryptWarning(entries []cryptEntry, name, volume string) string {
	for _, e := range entries {
		if e.name == name && (FstabEntry{Spec: e.device}).ByContent() {
			return fmt.Sprintf("%s opens %s on %s, which the volume's snapshots share: write %s there instead", crypttab, name,
				e.device, volume)
		}
	}
	return ""
}

// cryptsetupLimit is the longest time for a test or an opening: Argon2 takes seconds, and tens of seconds on a slow
// machine.
const cryptsetupLimit = 3 * time.Minute

// ProveKey tests that the key file that crypttab names for the crypt device called name opens the LUKS header on
// device. It changes nothing. Fault: no_key if there is no key file, or if it does not open the header.
func ProveKey(ctx context.Context, r command.Runner, name, device string) error {
	key, err := KeyFile(name)
	if err != nil {
		return err
	}
	_, err = r.Run(ctx, command.Cmd{
		Argv:  []string{"cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", key, "--", device},
		Limit: cryptsetupLimit,
	})
	if err != nil {
		return fault.New(fault.NoKey, "the key file %s does not open %s: %w", key, device, err).
			WithHint("crypttab must name the key that opens it: cryptsetup open --test-passphrase --key-file %s %s", key, device)
	}
	return nil
}

// cryptOptions are cryptsetup's options for optional parameters of a crypt device's table (dm-crypt). cryptsetup takes
// other parameters from the LUKS header. All are in cryptsetup 2.6 (Debian 12, RHEL 9).
var cryptOptions = map[string]string{
	"allow_discards":         "--allow-discards",
	"same_cpu_crypt":         "--perf-same_cpu_crypt",
	"submit_from_crypt_cpus": "--perf-submit_from_crypt_cpus",
	"no_read_workqueue":      "--perf-no_read_workqueue",
	"no_write_workqueue":     "--perf-no_write_workqueue",
}

// openArguments returns the command that opens a crypt device. parameters are those of its table (see OpenCrypt).
func openArguments(key, name, device string, parameters []string) []string {
	argv := []string{"cryptsetup", "open", "--batch-mode", "--key-file", key}
	for _, p := range parameters {
		if option, ok := cryptOptions[p]; ok {
			argv = append(argv, option)
		}
	}
	return append(argv, "--", device, name)
}

// OpenCrypt opens a crypt device on device, under the given name, with the key file that crypttab has for that name.
// parameters are the optional parameters that its table had before, as lvm.LVM.CryptOptions returns them: those that
// cryptsetup does not take from the LUKS header are set again. Faults: exists if it is open already, no_key,
// mount_failed.
func OpenCrypt(ctx context.Context, r command.Runner, name, device string, parameters []string) error {
	if isCryptOpen(name) {
		return fault.New(fault.Exists, "crypt device %s is open", name)
	}
	key, err := KeyFile(name)
	if err != nil {
		return err
	}
	_, err = r.Run(ctx, command.Cmd{
		Argv: openArguments(key, name, device, parameters), Limit: cryptsetupLimit, Changes: true,
	})
	if err != nil {
		return fault.New(fault.MountFailed, "open crypt device %s on %s: %w", name, device, err).
			WithHint("by hand: cryptsetup open --key-file %s %s %s, and mount what is on it", key, device, name)
	}
	return nil
}

// CloseCrypt closes the crypt device of that name. It is no error if the crypt device is not open. Fault: busy if it
// could not be closed.
func CloseCrypt(ctx context.Context, r command.Runner, name string) error {
	if !isCryptOpen(name) {
		return nil
	}
	_, err := r.Run(ctx, command.Cmd{Argv: []string{"cryptsetup", "close", "--", name}, Changes: true})
	if err != nil && isCryptOpen(name) {
		return fault.New(fault.Busy, "close crypt device %s: %w", name, err).
			WithHint("`lsof /dev/mapper/%s` and `dmsetup ls --tree` show what has it open", name)
	}
	return nil
}

func isCryptOpen(name string) bool {
	_, err := os.Stat("/dev/mapper/" + name)
	return err == nil
}
