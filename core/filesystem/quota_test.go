package filesystem

import (
	"slices"
	"testing"
)

func TestEnforcedQuotas(t *testing.T) {
	for flags, want := range map[uint16][]QuotaType{
		0:           nil,
		0x15:        nil, // all three are counted, and none is enforced
		0x03:        {UserQuota},
		0x0f:        {UserQuota, GroupQuota},
		0x01 | 0x30: {ProjectQuota},
	} {
		if got := enforcedQuotas(flags); !slices.Equal(got, want) {
			t.Errorf("%#x: %q, want %q", flags, got, want)
		}
	}
}
