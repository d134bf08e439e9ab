package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Each file of a dated tree has hard links in other dated trees. The maps of files with several links inside the tree
// do not grow by those files.
func TestLinksOutsideTheTreeTakeNoMemory(t *testing.T) {
	previous, from, to := t.TempDir(), t.TempDir(), t.TempDir()
	link := func(name, other string) error {
		return os.Link(filepath.Join(previous, name), filepath.Join(from, other))
	}
	for i := range 1000 {
		name := fmt.Sprint(i)
		if err := errors.Join(os.WriteFile(filepath.Join(previous, name), []byte(name), 0o644),
			link(name, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(link("7", "x"), link("7", "y")); err != nil {
		t.Fatal(err)
	}
	j, err := newJob(t.Context(), from, to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	s := newSurvey(j, false)
	if err := errors.Join(s.scanDir(&j.root), j.writePass()); err != nil {
		t.Fatal(err)
	}
	if len(s.namesMet) != 1 || len(j.linkGroups) != 1 {
		t.Errorf("the survey keeps %d files, the second pass %d; one has several names here", len(s.namesMet),
			len(j.linkGroups))
	}
	if j.done.Created != 1000 || j.done.Linked != 2 {
		t.Errorf("%+v", j.done)
	}
}
