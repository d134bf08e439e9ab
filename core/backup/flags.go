package backup

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/tree"
)

// FlagLine is the line of a list of inode flags that says which a file or directory of a backup has; path is its path
// on the host. It looks like this, as names may hold everything:
//
//	ia "/dat/audit\n.log"
func FlagLine(path string, f tree.Flags) string { return f.String() + " " + strconv.Quote(path) + "\n" }

// ReadFlags reads such a list. What has no line has no flags.
func ReadFlags(r io.Reader) (map[string]tree.Flags, error) {
	flags := map[string]tree.Flags{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10) // a path has 4096 bytes, each of which takes four letters at most
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
