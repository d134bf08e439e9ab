package plugin

import (
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/proc"
)

// endSession kills the processes of a session, whose leader has ended, and returns those that are still alive after
// endTimeout. It looks again until none is left, so that it finds processes that were started meanwhile.
func endSession(session int) []int {
	deadline := time.After(endTimeout)
	for {
		alive := sessionProcesses(session)
		for _, pid := range alive {
			killMember(pid, session)
		}
		if len(alive) == 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			return alive
		}
	}
}

// killMember kills a process if it belongs to the session. Another process may have got the number pid by now, but the
// handle stays with one process.
func killMember(pid, session int) {
	p, err := proc.Open(pid)
	if err != nil {
		return // it has ended
	}
	defer p.Close()
	if isAlive(pid, session) {
		_ = p.Signal(unix.SIGKILL) // endSession looks again, and so sees whether it worked
	}
}

// sessionProcesses returns the IDs of the processes of a session that are alive.
func sessionProcesses(session int) []int {
	var found []int
	for p := range proc.All() {
		if p.Session == session && p.IsAlive() {
			found = append(found, p.PID)
		}
	}
	return found
}

// isAlive reports whether there is a live process with this ID in the session.
func isAlive(pid, session int) bool {
	p, ok := proc.Find(pid)
	return ok && p.Session == session && p.IsAlive()
}
