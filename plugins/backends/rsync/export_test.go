package rsync

import "time"

// No test waits long for a lock that nobody gives back. It is set before any test runs, because some are parallel.
func init() { storeWait = 3 * time.Second }
