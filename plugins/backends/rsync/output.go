package rsync

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

var versionLine = regexp.MustCompile(`^rsync  version v?((\d{1,4})\.(\d{1,4})\.(\d{1,4})\S*)`)

// oldestVersion is the oldest rsync that can be used: --info=progress2 exists since 3.1.0, and --modify-window=-1,
// which compares times to the nanosecond, since 3.1.3.
var oldestVersion = []int{3, 1, 3}

// parseVersion parses the output of `rsync --version`. Fault: unsupported.
func parseVersion(output string) (string, error) {
	m := versionLine.FindStringSubmatch(output)
	if m == nil {
		return "", fault.New(fault.Unsupported, "`rsync --version` says %.80q, which is no version", output)
	}
	var v []int
	for _, digits := range m[2:] {
		n, _ := strconv.Atoi(digits) // digits only
		v = append(v, n)
	}
	if slices.Compare(v, oldestVersion) < 0 {
		return "", fault.New(fault.Unsupported, "rsync %s is too old", m[1]).WithHint("install rsync 3.1.3 or later")
	}
	for _, feature := range []string{"ACLs", "xattrs"} {
		if strings.Contains(output, "no "+feature) {
			return "", fault.New(fault.Unsupported, "this rsync was built without %s",
				feature).WithHint("install the distribution's rsync")
		}
	}
	return m[1], nil
}

// progressLine matches a line of --info=progress2 --no-h. "ir-chk" instead of "to-chk" means that rsync is still
// looking for files, and that the percentage refers to those found so far.
var progressLine = regexp.MustCompile(`^ *(\d{1,18}) +(\d{1,3})% .*?` +
	`(?:\(xfr#(\d{1,18}), (to|ir)-chk=\d+/(\d{1,18})\))?$`)

// parseProgress parses a line of progress, and returns false for any other line.
func parseProgress(line string) (backup.Progress, bool) {
	m := progressLine.FindStringSubmatch(line)
	if m == nil {
		return backup.Progress{}, false
	}
	done, _ := strconv.ParseInt(m[1], 10, 64) // at most 18 digits each
	percent, _ := strconv.ParseInt(m[2], 10, 64)
	files, _ := strconv.ParseInt(m[3], 10, 64) // none: 0
	p := backup.Progress{Done: done, Files: files}
	if m[4] == "to" && percent > 0 && percent <= 100 {
		p.Total = max(done, done/percent*100)
	}
	return p, true
}

// stats are the numbers that are used from --info=stats2.
type stats struct{ files, bytes, literal int64 }

var statLine = regexp.MustCompile(`^(?:Number of files: \d+ \(reg: (\d{1,18})|` +
	`Total file size: (\d{1,18}) bytes|Literal data: (\d{1,18}) bytes)`)

func (s *stats) read(line string) {
	m := statLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	for i, field := range []*int64{&s.files, &s.bytes, &s.literal} {
		if m[i+1] != "" {
			*field, _ = strconv.ParseInt(m[i+1], 10, 64) // at most 18 digits
		}
	}
}

// stderrLine is a line of rsync's stderr.
type stderrLine struct {
	kind lineKind
	path string
}

type lineKind int

const (
	unimportant      lineKind = iota
	sourceVanished            // a file of the source was gone
	sourceUnreadable          // a file of the source could not be read
	otherError                // any error that is not about reading the source
)

var (
	vanishedLine = regexp.MustCompile(`^(?:file|directory) has vanished: "(.*)"$`)
	senderLine   = regexp.MustCompile(`^rsync: \[sender\] .*?"(/.*)".*\(\d+\)$`)
	summaryLine  = regexp.MustCompile(`^rsync (error|warning): |^IO error encountered|^$`)
)

// parseStderrLine distinguishes errors of reading the source, after which rsync copies the rest, from all other errors.
func parseStderrLine(line string) stderrLine {
	if m := vanishedLine.FindStringSubmatch(line); m != nil {
		return stderrLine{sourceVanished, m[1]}
	}
	if m := senderLine.FindStringSubmatch(line); m != nil {
		return stderrLine{sourceUnreadable, m[1]}
	}
	if summaryLine.MatchString(line) || !strings.HasPrefix(line, "rsync: ") {
		return stderrLine{kind: unimportant} // a banner of ssh, or a summary
	}
	return stderrLine{kind: otherError}
}
