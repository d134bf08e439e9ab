package tree

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.pcc.com/rewind/core/fault"
)

// NFS and FUSE say only when a file is closed that the server had no room for what was written: here it cannot be
// closed because it is closed already.
func TestFileThatCannotBeClosedIsAnError(t *testing.T) {
	t.Parallel()
	src, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	c := contentSync{job: &job{}, e: &entry{rel: "file"}, src: src, dst: dst}
	defer c.close()
	if err := c.run(); !errors.Is(err, fault.CommandFailed) || !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
