package backup

import (
	"os"

	"golang.org/x/sys/unix"
)

// Unlock releases the flock(2) lock on file, and closes file. Close alone is not enough: a child between fork and exec
// still holds a copy of the descriptor, and with it the lock.
func Unlock(file *os.File) {
	_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	file.Close()
}
