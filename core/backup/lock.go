package backup

import (
	"os"

	"golang.org/x/sys/unix"
)

// Unlock gives up what flock(2) has locked, and closes it. By Close alone the lock would last as long as the copy that a
// program has which is just being started, until its exec.
func Unlock(file *os.File) {
	_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	file.Close()
}
