package backup

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/tree"
)

// FlagLine returns the line for one file or directory in a list of inode flags. path is its path on the host. It is
// quoted, because names may contain any byte but a slash and a zero byte:
//
//	ia "/dat/audit\n.log"
func FlagLine(path string, f tree.Flags) string { return f.String() + " " + strconv.Quote(path) + "\n" }

// maxFlagLine is the length of the longest line that is read. Trees are as deep as somebody makes them: PATH_MAX only
// limits the paths in system calls.
const maxFlagLine = 16 << 20

// ReadFlags reads a list of FlagLines, and returns the flags by path. A file without a line has no flags.
func ReadFlags(r io.Reader) (map[string]tree.Flags, error) {
	flags := map[string]tree.Flags{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxFlagLine)
	for lines.Scan() {
		letters, quoted, _ := strings.Cut(lines.Text(), " ")
		f, err := tree.ParseFlags(letters)
		if err != nil {
			return nil, err
		}
		path, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("%.80q is no path in quotes", quoted)
		}
		flags[path] = f
	}
	return flags, lines.Err()
}
