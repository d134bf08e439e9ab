package rsync

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// holder is who holds a lock on an ssh target.
type holder struct {
	Host    string `json:"host"`
	Machine string `json:"machine"` // machine-id(5)
	Boot    string `json:"boot"`    // random.4: boot_id
	PID     int    `json:"pid"`
	Started string `json:"started"` // ticks since the boot: another process may get the number later
}

func (h holder) String() string { return fmt.Sprintf("process %d of %s", h.PID, h.Host) }

// ourselves returns the holder that this process is.
func ourselves() (holder, error) {
	h := holder{PID: os.Getpid()}
	var err error
	if h.Host, err = os.Hostname(); err != nil {
		return h, fault.New(fault.Internal, "make a lock: %w", err)
	}
	if h.Boot, err = word("/proc/sys/kernel/random/boot_id"); err != nil {
		return h, fault.New(fault.Internal, "make a lock: %w", err)
	}
	h.Machine, _ = word("/etc/machine-id") // where there is none, the name has to do
	h.Started = startOf(h.PID)
	return h, nil
}

func word(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

// startOf returns when a process of this host started, "" if there is none.
func startOf(pid int) string {
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

// alive says whether the holder may still be at work. Of another machine nobody here can know.
func (h holder) alive() bool {
	own, err := ourselves()
	if err != nil || h.Machine != own.Machine || h.Host != own.Host {
		return true
	}
	return h.Boot == own.Boot && h.Started != "" && startOf(h.PID) == h.Started
}

// parseHolder reads a lock. One that cannot be read, since its writer was killed, is that of nobody on no machine:
// it stays until somebody looks.
func parseHolder(data []byte) holder {
	var h holder
	if json.Unmarshal(data, &h) != nil {
		return holder{Host: "a host that cannot be read"}
	}
	return h
}

// newName returns a name that nobody else makes.
func newName() string { return strings.ToLower(rand.Text()[:16]) }
