package plugin

import (
	"sync"

	"go.pcc.com/rewind/core/backup"
)

// slot holds the latest progress: whoever is too slow for all of it misses what is outdated, and nothing queues.
type slot struct {
	filled chan struct{} // holds a token while there is progress to take

	mu     sync.Mutex
	latest *backup.Progress
}

func newSlot() *slot { return &slot{filled: make(chan struct{}, 1)} }

func (s *slot) put(p backup.Progress) {
	s.mu.Lock()
	s.latest = &p
	s.mu.Unlock()
	select {
	case s.filled <- struct{}{}:
	default:
	}
}

func (s *slot) take() (backup.Progress, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return backup.Progress{}, false
	}
	p := *s.latest
	s.latest = nil
	return p, true
}
