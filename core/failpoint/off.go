//go:build !failpoints

package failpoint

// Hit marks a place. It does nothing without the build tag "failpoints".
func Hit(name string) {}
