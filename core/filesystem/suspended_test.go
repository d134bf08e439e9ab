package filesystem

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountWhenResumedWaitsOnlyForADeviceThatNothingUses(t *testing.T) {
	device := t.TempDir() // like a suspended device, it can be opened for exclusive use
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	busy := errors.New("mount: /srv: /dev/mapper/vg00-dat " + busyText + ".")
	for _, c := range []struct {
		name, source string
		ctx          context.Context
		first, want  error
		calls        int
	}{
		{"not suspended", device, t.Context(), nil, nil, 1},
		{"suspended, mount(2)", device, t.Context(), unix.EBUSY, nil, 2},
		{"suspended, mount(8)", device, t.Context(), busy, nil, 2},
		{"another error", device, t.Context(), unix.EINVAL, unix.EINVAL, 1},
		{"no such device", device + "/none", t.Context(), unix.EBUSY, unix.EBUSY, 1},
		{"the caller's time is over", device, ended, busy, busy, 1},
	} {
		calls := 0
		err := mountWhenResumed(c.ctx, c.source, func() error {
			if calls++; calls == 1 {
				return c.first
			}
			return nil
		})
		if err != c.want || calls != c.calls {
			t.Errorf("%s: %v after %d calls, want %v after %d", c.name, err, calls, c.want, c.calls)
		}
	}
}
