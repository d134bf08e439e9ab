package rsync

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
)

// The list of doubtful files has each of them up to a limit, and each of their directories once.
func TestListDoubtfulNamesFilesUpToLimit(t *testing.T) {
	root := t.TempDir()
	var want []string
	for _, dir := range []string{"a", "b\nc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := os.WriteFile(filepath.Join(root, dir, fmt.Sprint(i)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, filepath.Join(root, dir))
	}
	of := backup.Tree{Host: "h", Time: time.Now(), Roots: []string{root}, Record: filepath.Join(t.TempDir(), "new")}
	stored := backup.Stored{ID: "id", Host: "h", Time: of.Time, Roots: of.Roots}
	keeper := record.Keeper{Dir: t.TempDir()}
	if _, err := record.Make(t.Context(), of, nil, nil, ignoreProgress); err != nil {
		t.Fatal(err)
	}
	if err := keeper.Keep(stored, of.Record); err != nil {
		t.Fatal(err)
	}
	for most, named := range map[int]int{100: 6, 6: 6, 5: 5} {
		last := keeper.Open(stored) // its files were changed so shortly before that all are doubtful
		list := filepath.Join(t.TempDir(), "list")
		n, several, _, err := listDoubtful(t.Context(), of, last, list, most, ignoreProgress)
		last.Close()
		data, readErr := os.ReadFile(list)
		if n != 6 || several || err != nil || readErr != nil {
			t.Fatalf("%d of 6 files are doubtful: %v, %v", n, err, readErr)
		}
		if lines := strings.Count(string(data), "\x00"); lines != named+len(want) {
			t.Errorf("the list of at most %d names %d, with their directories", most, lines)
		}
		for _, dir := range want {
			if strings.Count(string(data), dir+"\x00") != 1 {
				t.Errorf("the list does not have %q exactly once", dir)
			}
		}
	}
}
