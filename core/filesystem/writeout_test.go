package filesystem

import (
	"context"
	"slices"
	"testing"
	"time"
)

// A disk that does not answer delays nothing past the limit, and nothing after the run was asked to end.
func TestWriteOutHasALimit(t *testing.T) {
	real, stuck := syncfs, make(chan struct{})
	t.Cleanup(func() { syncfs = real; close(stuck) })
	limited, cancel := context.WithCancel(t.Context())
	syncfs = func(point string) {
		if point != "/quick" {
			<-stuck
		}
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	begun := time.Now()
	if late := WriteOut(limited, []string{"/dat", "/quick", "/pccehr"}); !slices.Equal(late, []string{"/dat", "/pccehr"}) {
		t.Errorf("late are %q", late)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if late := WriteOut(ended, []string{"/dat"}); !slices.Equal(late, []string{"/dat"}) {
		t.Errorf("late are %q", late)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it waited for %v", took)
	}
}
