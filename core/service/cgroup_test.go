package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWaitEmptyWaitsForTheLastProcess(t *testing.T) {
	t.Parallel()
	group := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(group, "cgroup.events"), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	write("populated 1\nfrozen 0\n")
	ctx, cancel := context.WithTimeout(t.Context(), 3*populatedInterval)
	defer cancel()
	if err := waitEmpty(ctx, group); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a process: %v", err)
	}
	time.AfterFunc(3*populatedInterval, func() { write("populated 0\nfrozen 0\n") })
	if err := waitEmpty(t.Context(), group); err != nil {
		t.Errorf("after its end: %v", err)
	}
	if err := waitEmpty(t.Context(), filepath.Join(group, "removed")); err != nil {
		t.Errorf("a group that systemd has removed: %v", err)
	}
}
