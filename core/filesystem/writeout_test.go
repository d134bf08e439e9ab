package filesystem

import (
	"context"
	"slices"
	"testing"
	"time"
)

// A disk that does not answer delays nothing beyond the limit, and nothing after the end of ctx.
func TestWriteOutHasALimit(t *testing.T) {
	real, stuck := syncfs, make(chan struct{})
	t.Cleanup(func() { syncfs = real; close(stuck) })
	asked, cancel := context.WithCancel(t.Context())
	syncfs = func(point string) {
		if point != "/quick" {
			<-stuck
		}
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	begun := time.Now()
	late := WriteOut(asked, []string{"/dat", "/quick", "/pccehr"}, time.Hour)
	if !slices.Equal(late, []string{"/dat", "/pccehr"}) {
		t.Errorf("late are %q", late)
	}
	limited := time.Now()
	if late := WriteOut(t.Context(), []string{"/dat"}, 20*time.Millisecond); !slices.Equal(late, []string{"/dat"}) {
		t.Errorf("late are %q", late)
	}
	if took := time.Since(limited); took < 20*time.Millisecond {
		t.Errorf("it waited for %v", took)
	}
	if late := WriteOut(asked, []string{"/dat"}, time.Hour); !slices.Equal(late, []string{"/dat"}) {
		t.Errorf("late are %q", late)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it waited for %v", took)
	}
}
