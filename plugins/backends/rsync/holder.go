package rsync

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// holder identifies the process that holds a lock on another host. It is the content of the lock file.
type holder struct {
	Host     string `json:"host"`
	Machine  string `json:"machine"`            // machine-id(5)
	Hardware string `json:"hardware,omitempty"` // backup.Hardware
	Boot     string `json:"boot"`               // random.4: boot_id
	PID      int    `json:"pid"`
	Started  string `json:"started"` // ticks from the boot to the process's start: its PID may be used again later
}

func (h holder) String() string { return fmt.Sprintf("process %d of %s", h.PID, h.Host) }

// thisProcess returns the holder for this process.
func thisProcess() (holder, error) {
	h := holder{PID: os.Getpid()}
	var err error
	if h.Host, err = os.Hostname(); err != nil {
		return h, fault.New(fault.Internal, "make a lock: %w", err)
	}
	if h.Boot, err = readWord("/proc/sys/kernel/random/boot_id"); err != nil {
		return h, fault.New(fault.Internal, "make a lock: %w", err)
	}
	h.Machine, _ = readWord("/etc/machine-id") // if there is none, only the host's name counts
	h.Hardware = backup.Hardware()
	h.Started = startTime(h.PID)
	return h, nil
}

// readWord returns the content of a file without surrounding white space.
func readWord(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// startTime returns when a process of this host was started, in ticks since the boot, and "" if there is no such
// process.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // from field 3
	if len(fields) < 20 {
		return ""
	}
	return fields[19] // 22, starttime (proc_pid_stat(5))
}

// mayBeAlive reports whether the holder may still be at work. For a holder on another machine it is always true,
// because that cannot be found out here.
func (h holder) mayBeAlive() bool {
	own, err := thisProcess()
	return err != nil || h.mayBeAliveFor(own)
}

// mayBeAliveFor is mayBeAlive for the process own. An earlier boot of this machine has ended with all its processes. A
// boot that is not this one may also be one of the machine of which this is a copy, with the same name and machine-id.
// So it counts as earlier only if the hardware is known to be the same.
func (h holder) mayBeAliveFor(own holder) bool {
	if h.Machine != own.Machine || h.Host != own.Host || h.Hardware != own.Hardware && h.Hardware != "" {
		return true
	}
	if h.Boot != own.Boot {
		return h.Hardware == ""
	}
	return h.Started != "" && startTime(h.PID) == h.Started
}

// parseHolder parses a lock file. For a file that cannot be parsed, because its writer was killed, it returns a holder
// on an unknown machine: the lock stays until a person removes it.
func parseHolder(data []byte) holder {
	var h holder
	if json.Unmarshal(data, &h) != nil {
		return holder{Host: "a host that cannot be read"}
	}
	return h
}

// randomName returns a random name that no other process will choose.
func randomName() string { return strings.ToLower(rand.Text()[:16]) }
