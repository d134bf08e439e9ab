package plugin

import (
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/proc"
)

// endSession kills every process of a session but its leader, which has ended, and returns those that are still there
// after a while. What is started meanwhile is found by the next look.
func endSession(session int) []int {
	late := time.After(endLimit)
	for {
		left := members(session)
		for _, pid := range left {
			killMember(pid, session)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-late:
			return left
		}
	}
}

// killMember kills a process if it is of the session: its number may be another's by now, that of its handle not.
func killMember(pid, session int) {
	p, err := proc.Open(pid)
	if err != nil {
		return // it has ended
	}
	defer p.Close()
	if lives(pid, session) {
		_ = p.Signal(unix.SIGKILL) // the next look tells whether it worked
	}
}

// members returns the processes of a session that live.
func members(session int) []int {
	var found []int
	for p := range proc.All() {
		if p.Session == session && p.Lives() {
			found = append(found, p.PID)
		}
	}
	return found
}

func lives(pid, session int) bool {
	p, ok := proc.Find(pid)
	return ok && p.Session == session && p.Lives()
}
