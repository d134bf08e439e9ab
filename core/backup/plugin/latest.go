package plugin

import (
	"sync"

	"go.pcc.com/rewind/core/backup"
)

// latestProgress holds the latest progress that nobody has taken. A new value replaces an older one, so that a slow
// reader misses outdated values and no queue grows.
type latestProgress struct {
	available chan struct{} // has an element while there is progress to take

	mu     sync.Mutex
	latest *backup.Progress
}

func newLatestProgress() *latestProgress { return &latestProgress{available: make(chan struct{}, 1)} }

func (s *latestProgress) set(p backup.Progress) {
	s.mu.Lock()
	s.latest = &p
	s.mu.Unlock()
	select {
	case s.available <- struct{}{}:
	default:
	}
}

func (s *latestProgress) take() (backup.Progress, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return backup.Progress{}, false
	}
	p := *s.latest
	s.latest = nil
	return p, true
}
