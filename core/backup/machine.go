package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// MachineFile is the name of the file in which a backend that has a directory for each host notes whose backups are
// there: the Config.Machine of the first Store.
const MachineFile = ".machine"

// ThisMachine returns what tells this server from every other, also from a copy of it under the same name: a hash of
// machine-id(5) and of Hardware. It is empty if there is neither.
func ThisMachine() string { return machineBelow("/") }

// Hardware returns the number that tells this machine, or virtual machine, from every other. A copy of a virtual
// machine usually gets another one. It is empty if this machine has none.
func Hardware() string { return hardwareBelow("/") }

func machineBelow(root string) string {
	id, hardware := readWord(filepath.Join(root, "etc/machine-id")), hardwareBelow(root)
	if id == "uninitialized" { // while systemd boots for the first time
		id = ""
	}
	if id == "" && hardware == "" {
		return ""
	}
	hash := sha256.Sum256([]byte("rewind\x00" + id + "\x00" + hardware)) // others should not learn the machine-id
	return hex.EncodeToString(hash[:16])
}

func hardwareBelow(root string) string {
	for _, path := range []string{
		"sys/class/dmi/id/product_uuid", "sys/hypervisor/uuid", "sys/firmware/devicetree/base/serial-number",
	} {
		if id := readWord(filepath.Join(root, path)); id != "" {
			return id
		}
	}
	return ""
}

// readWord returns the content of a file without the white space and the NUL bytes around it, and "" if it cannot be
// read.
func readWord(path string) string {
	data, _ := os.ReadFile(path)
	return strings.Trim(string(data), " \t\n\x00")
}

// ReadMachine returns what is noted in the MachineFile of a host's directory, and "" if nothing is.
func ReadMachine(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, MachineFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// RefuseOtherMachine refuses to change the backups of a host that another machine of the same name has made. noted is
// what is noted in file, and own is Config.Machine. What is not known is not refused. Fault: exists.
func RefuseOtherMachine(noted, own, host, file string) error {
	if noted == "" || own == "" || noted == own {
		return nil
	}
	const msg = "the backups of %s there are those of another server of that name, says %s"
	return fault.New(fault.Exists, msg, host, file).
		WithHint("give host=NAME for one of the two; or, if it was that server before a reinstallation or a move to new "+
			"hardware, remove %s and run the same again", file)
}
