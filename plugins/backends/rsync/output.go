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

// oldest: 3.1.0 brought --info=progress2, 3.1.3 times that differ by less than a second (--modify-window=-1).
var oldest = []int{3, 1, 3}

// parseVersion reads what `rsync --version` prints.
func parseVersion(said string) (string, error) {
	m := versionLine.FindStringSubmatch(said)
	if m == nil {
		return "", fault.New(fault.Unsupported, "`rsync --version` says %.80q, which is no version", said)
	}
	var v []int
	for _, digits := range m[2:] {
		n, _ := strconv.Atoi(digits) // digits only
		v = append(v, n)
	}
	if slices.Compare(v, oldest) < 0 {
		return "", fault.New(fault.Unsupported, "rsync %s is too old", m[1]).WithHint("install rsync 3.1.3 or later")
	}
	for _, feature := range []string{"ACLs", "xattrs"} {
		if strings.Contains(said, "no "+feature) {
			return "", fault.New(fault.Unsupported, "this rsync was built without %s", feature).WithHint("install the distribution's rsync")
		}
	}
	return m[1], nil
}

// progressLine is one of --info=progress2 --no-h. "ir-chk" means that files are still being looked for, and the percent
// is of those found so far.
var progressLine = regexp.MustCompile(`^ *(\d{1,18}) +(\d{1,3})% .*?(?:\(xfr#(\d{1,18}), (to|ir)-chk=\d+/(\d{1,18})\))?$`)

// parseProgress reads a line; false for any other.
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

// stats are the lines of --info=stats2 that count.
type stats struct{ files, bytes, literal int64 }

var statLine = regexp.MustCompile(`^(?:Number of files: \d+ \(reg: (\d{1,18})|Total file size: (\d{1,18}) bytes|Literal data: (\d{1,18}) bytes)`)

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

// complaint is a line of stderr.
type complaint struct {
	kind complaintKind
	path string
}

type complaintKind int

const (
	unimportant complaintKind = iota
	vanished                  // the file was gone
	unreadable                // the file could not be read
	elsewhere                 // anything that is not about reading the source
)

var (
	vanishedLine = regexp.MustCompile(`^(?:file|directory) has vanished: "(.*)"$`)
	senderLine   = regexp.MustCompile(`^rsync: \[sender\] .*?"(/.*)".*\(\d+\)$`)
	summaryLine  = regexp.MustCompile(`^rsync (error|warning): |^IO error encountered|^$`)
)

// parseComplaint tells errors of the source, after which the rest is stored, from all others.
func parseComplaint(line string) complaint {
	if m := vanishedLine.FindStringSubmatch(line); m != nil {
		return complaint{vanished, m[1]}
	}
	if m := senderLine.FindStringSubmatch(line); m != nil {
		return complaint{unreadable, m[1]}
	}
	if summaryLine.MatchString(line) || !strings.HasPrefix(line, "rsync: ") {
		return complaint{kind: unimportant} // a banner of ssh's, a summary
	}
	return complaint{kind: elsewhere}
}
