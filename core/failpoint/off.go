//go:build !failpoints

package failpoint

// Hit marks a failpoint. Without the build tag "failpoints" it does nothing.
func Hit(name string) {}
