package lvm

import "strings"

// Kind is what a volume is made of.
type Kind string

// Every kind. Linear and striped volumes are what a thick snapshot needs as
// origin and were tried; thin ones live in a thin pool.
const (
	Linear    Kind = "linear"
	Striped   Kind = "striped"
	Thin      Kind = "thin"
	ThinPool  Kind = "thinpool"
	Snapshot  Kind = "snapshot" // a thick one: a linear COW; a thin snapshot is Thin with an Origin
	RAID      Kind = "raid"
	Mirror    Kind = "mirror"
	Cache     Kind = "cache" // also writecache
	CachePool Kind = "cachepool"
	VDO       Kind = "vdo"
	VDOPool   Kind = "vdopool"
	Other     Kind = "other" // virtual, error, unknown to this LVM, or not listed here
)

// Thick reports whether LVM takes snapshots of it as a COW of fixed size.
func (k Kind) Thick() bool { return k == Linear || k == Striped }

// layouts maps words of lv_layout to kinds, the most telling first: a RAID
// volume is also "raid1", a cached one also "linear" (lvs(8), lv_layout).
var layouts = []struct {
	word string
	kind Kind
}{
	{"cache", Cache}, {"writecache", Cache}, {"vdo", VDO}, {"thin", Thin},
	{"raid", RAID}, {"mirror", Mirror}, {"striped", Striped}, {"linear", Linear},
}

func kindOf(layout, role []string) Kind {
	if has(role, "thicksnapshot") {
		return Snapshot
	}
	for _, l := range layouts {
		if has(layout, l.word) {
			return poolKind(l.kind, has(layout, "pool"))
		}
	}
	return Other
}

func poolKind(k Kind, pool bool) Kind {
	switch {
	case !pool:
		return k
	case k == Thin:
		return ThinPool
	case k == Cache:
		return CachePool
	case k == VDO:
		return VDOPool
	}
	return k
}

// State is what LVM's fifth attribute says of a volume's device, by name.
type State string

// Every state (lvs(8), lv_attr, bit 5). Merging is ours: LVM shows it in bit 1.
const (
	Active                  State = "active"
	Inactive                State = "inactive"
	Suspended               State = "suspended"
	Merging                 State = "merging" // recorded as merging; only the kernel's table tells whether it runs
	Invalid                 State = "invalid" // its COW space overflowed: what it held is lost
	InvalidSuspended        State = "invalid_suspended"
	MergeFailed             State = "merge_failed"
	MergeFailedSuspended    State = "merge_failed_suspended"
	MappedWithoutTables     State = "mapped_without_tables" // a half-made device
	MappedWithInactiveTable State = "mapped_with_inactive_table"
	CheckNeeded             State = "check_needed" // a thin pool's or a cache's metadata
	CheckNeededSuspended    State = "check_needed_suspended"
	Historical              State = "historical" // removed; LVM remembers it for its descendants
	Unknown                 State = "unknown"
)

var states = map[byte]State{
	'a': Active, '-': Inactive, 's': Suspended, 'I': Invalid, 'S': InvalidSuspended,
	'm': MergeFailed, 'M': MergeFailedSuspended, 'd': MappedWithoutTables, 'i': MappedWithInactiveTable,
	'c': CheckNeeded, 'C': CheckNeededSuspended, 'h': Historical,
}

// Health is what LVM's ninth attribute says of a volume, by name.
type Health string

// Every health (lvs(8), lv_attr, bit 9). The letters' meanings depend on the
// kind only where they cannot both occur.
const (
	Healthy          Health = "ok"
	Partial          Health = "partial" // a PV it uses is missing
	RefreshNeeded    Health = "refresh_needed"
	Mismatches       Health = "mismatches"
	WriteMostly      Health = "writemostly"
	Reshaping        Health = "reshaping"
	RemoveReshaped   Health = "remove_after_reshape"
	Failed           Health = "failed"
	OutOfData        Health = "out_of_data_space"
	MetadataReadOnly Health = "metadata_read_only"
	WriteError       Health = "write_error" // of a writecache
	UnknownHealth    Health = "unknown"
)

var healths = map[byte]Health{
	'-': Healthy, 'p': Partial, 'r': RefreshNeeded, 'm': Mismatches, 'w': WriteMostly, 's': Reshaping,
	'R': RemoveReshaped, 'F': Failed, 'D': OutOfData, 'M': MetadataReadOnly, 'E': WriteError,
}

// attributes reads the fifth and the ninth character of lv_attr. What is missing
// or new is unknown, never good.
func attributes(attr string) (State, Health) {
	const state, health = 4, 8
	if len(attr) <= health {
		return Unknown, UnknownHealth
	}
	s, known := states[attr[state]]
	if !known {
		s = Unknown
	}
	h, known := healths[attr[health]]
	if !known {
		h = UnknownHealth
	}
	return s, h
}

// badStates says why a volume in that state must not be relied on. Inactive is
// not among them: nothing is wrong with it, only nothing is known.
var badStates = map[State]string{
	Suspended:               "its device is suspended: everything that reads or writes it waits",
	Invalid:                 "its COW space overflowed, so what it held is lost",
	InvalidSuspended:        "its COW space overflowed, so what it held is lost, and its device is suspended",
	MergeFailed:             "its merge failed",
	MergeFailedSuspended:    "its merge failed and its device is suspended",
	MappedWithoutTables:     "its device was left half-made, without a table",
	MappedWithInactiveTable: "its device was left half-made, with a table that is not in use",
	CheckNeeded:             "its metadata needs a check",
	CheckNeededSuspended:    "its metadata needs a check and its device is suspended",
	Historical:              "it was removed",
	Unknown:                 "LVM could not tell its state",
}

var badHealths = map[Health]string{
	Partial:          "a physical volume it uses is missing",
	Failed:           "the thin pool or cache failed",
	OutOfData:        "no data space is left in the thin pool",
	MetadataReadOnly: "its metadata went read-only after an error",
	WriteError:       "its writecache reports an error",
	UnknownHealth:    "LVM could not tell its health",
}

// Bad reports whether the volume must not be relied on, and why in words that
// continue "vg/lv: …".
func (v *Volume) Bad() (bool, string) {
	var why []string
	if w, bad := badStates[v.State]; bad {
		why = append(why, w)
	}
	if w, bad := badHealths[v.Health]; bad {
		why = append(why, w)
	}
	return len(why) > 0, strings.Join(why, "; ")
}

// Lost reports whether what a snapshot held is gone for good.
func (v *Volume) Lost() bool {
	return v.State == Invalid || v.State == InvalidSuspended
}
