package restic

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"

	"go.pcc.com/rewind/core/fault"
)

// version is restic's: major, minor, patch.
type version [3]int

// What came with which restic (its CHANGELOG).
var (
	oldest       = version{0, 14, 0}
	withLinks    = version{0, 15, 0} // hard links keep one inode in the mount (pull request 4020); restore --sparse
	withRetry    = version{0, 16, 0} // --retry-lock; restore --json
	withFeatures = version{0, 17, 0} // RESTIC_FEATURES=device-id-for-hardlinks; the size of a backup as it is packed
)

var versionLine = regexp.MustCompile(`^restic v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?[^0-9]`)

// parseVersion reads the line that `restic version` prints.
func parseVersion(said string) (version, error) {
	m := versionLine.FindStringSubmatch(said)
	if m == nil {
		return version{}, fault.New(fault.Unsupported, "`restic version` says %.80q, which is no version", said)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // digits only, or nothing
	}
	if !v.has(oldest) {
		return version{}, fault.New(fault.Unsupported, "restic %v is too old", v).WithHint("install restic %v or later", oldest)
	}
	return v, nil
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// has says whether v is at least as new as what came with since.
func (v version) has(since version) bool {
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
		{withFeatures, "unchanged directories are not stored again on a new device"},
	} {
		if v.has(f.since) {
			list = append(list, f.name)
		}
	}
	return list
}
