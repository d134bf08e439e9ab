package restic

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"

	"go.pcc.com/rewind/core/fault"
)

// version is a version of restic: major, minor, patch.
type version [3]int

// The versions of restic since which there are certain features (see restic's CHANGELOG).
var (
	oldestVersion = version{0, 14, 0}
	// hard links of a file have the same inode in the mount (pull request 4020); restore --sparse
	withLinks    = version{0, 15, 0}
	withRetry    = version{0, 16, 0} // --retry-lock; restore --json
	withFeatures = version{0, 17, 0} // `restic features`, RESTIC_FEATURES; data_added_packed in the summary
)

var versionLine = regexp.MustCompile(`^restic v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?[^0-9]`)

// parseVersion parses the output of `restic version`. Fault: unsupported.
func parseVersion(output string) (version, error) {
	m := versionLine.FindStringSubmatch(output)
	if m == nil {
		return version{}, fault.New(fault.Unsupported, "`restic version` says %.80q, which is no version", output)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // digits only, or nothing
	}
	if !v.atLeast(oldestVersion) {
		return version{}, fault.New(fault.Unsupported, "restic %v is too old", v).WithHint("install restic %v or later",
			oldestVersion)
	}
	return v, nil
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// atLeast reports whether v is the version since or a later one.
func (v version) atLeast(since version) bool {
	return cmp.Or(cmp.Compare(v[0], since[0]), cmp.Compare(v[1], since[1]), cmp.Compare(v[2], since[2])) >= 0
}

func (v version) features() []string {
	list := []string{"encryption", "deduplication"}
	for _, f := range []struct {
		since version
		name  string
	}{
		{withLinks, "hard links in the mount"},
		{withRetry, "waits for locks"},
	} {
		if v.atLeast(f.since) {
			list = append(list, f.name)
		}
	}
	return list
}
