package lvm

import "strings"

// Kind is the type of a volume, by the way in which LVM stores its data.
type Kind string

// All kinds. Thick snapshots are taken of linear and striped volumes, which are the kinds that were tested. Thin
// volumes live in a thin pool.
const (
	Linear    Kind = "linear"
	Striped   Kind = "striped"
	Thin      Kind = "thin"
	ThinPool  Kind = "thinpool"
	Snapshot  Kind = "snapshot" // a thick one, with COW space; a thin snapshot is Thin and has an Origin
	RAID      Kind = "raid"
	Mirror    Kind = "mirror"
	Cache     Kind = "cache" // also writecache
	CachePool Kind = "cachepool"
	VDO       Kind = "vdo"
	VDOPool   Kind = "vdopool"
	Other     Kind = "other" // virtual, error, unknown to this LVM, or not listed here
)

// Thick reports whether the snapshots of a volume of this kind are thick ones, with COW space of a fixed size.
func (k Kind) Thick() bool { return k == Linear || k == Striped }

// layouts maps words of lv_layout to kinds. The first one that a volume has counts, so the most specific words come
// first: a RAID volume is also "raid1", and a cached one also "linear" (lvs(8), lv_layout).
var layouts = []struct {
	word string
	kind Kind
}{
	{"cache", Cache}, {"writecache", Cache}, {"vdo", VDO}, {"thin", Thin},
	{"raid", RAID}, {"mirror", Mirror}, {"striped", Striped}, {"linear", Linear},
}

// kindOf returns the kind of a volume with these words in lv_layout and lv_role.
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

// poolKind returns the kind of a pool whose volumes are of kind k; k itself if the volume is no pool.
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

// State is the state of a volume's device, as the fifth character of LVM's lv_attr gives it.
type State string

// All states (lvs(8), lv_attr, bit 5). This package adds Merging, which LVM shows in bit 1.
const (
	Active                  State = "active"
	Inactive                State = "inactive"
	Suspended               State = "suspended"
	Merging                 State = "merging" // recorded as merging; only the kernel's table tells whether it runs
	Invalid                 State = "invalid" // its COW space overflowed: its content is lost
	InvalidSuspended        State = "invalid_suspended"
	MergeFailed             State = "merge_failed"
	MergeFailedSuspended    State = "merge_failed_suspended"
	MappedWithoutTables     State = "mapped_without_tables" // a half-made device
	MappedWithInactiveTable State = "mapped_with_inactive_table"
	CheckNeeded             State = "check_needed" // the metadata of a thin pool or a cache needs a check
	CheckNeededSuspended    State = "check_needed_suspended"
	Historical              State = "historical" // removed; LVM remembers it for its descendants
	Unknown                 State = "unknown"
)

var states = map[byte]State{
	'a': Active, '-': Inactive, 's': Suspended, 'I': Invalid, 'S': InvalidSuspended,
	'm': MergeFailed, 'M': MergeFailedSuspended, 'd': MappedWithoutTables, 'i': MappedWithInactiveTable,
	'c': CheckNeeded, 'C': CheckNeededSuspended, 'h': Historical,
}

// Health is the health of a volume, as the ninth character of LVM's lv_attr gives it.
type Health string

// All healths (lvs(8), lv_attr, bit 9). Each letter has one meaning here, although for LVM it depends on the kind of
// volume: the meanings do not collide.
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

// parseAttributes parses the fifth and the ninth character of lv_attr. A character that is missing or new gives Unknown
// or UnknownHealth, which are bad.
func parseAttributes(attr string) (State, Health) {
	const state, health = 4, 8
	if len(attr) <= health {
		return Unknown, UnknownHealth
	}
	stateName, known := states[attr[state]]
	if !known {
		stateName = Unknown
	}
	healthName, known := healths[attr[health]]
	if !known {
		healthName = UnknownHealth
	}
	return stateName, healthName
}

// badStates says why a volume in one of these states must not be relied on. Inactive is not one of them: nothing is
// known to be wrong with such a volume.
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

// badHealths says why a volume with one of these healths must not be relied on.
var badHealths = map[Health]string{
	Partial:          "a physical volume it uses is missing",
	Failed:           "the thin pool or cache failed",
	OutOfData:        "no data space is left in the thin pool",
	MetadataReadOnly: "its metadata went read-only after an error",
	WriteError:       "its writecache reports an error",
	UnknownHealth:    "LVM could not tell its health",
}

// Bad reports whether the volume must not be relied on, and returns the reasons, as words that can follow "vg/lv: ".
func (v *Volume) Bad() (bool, string) {
	var reasons []string
	if reason, bad := badStates[v.State]; bad {
		reasons = append(reasons, reason)
	}
	if reason, bad := badHealths[v.Health]; bad {
		reasons = append(reasons, reason)
	}
	return len(reasons) > 0, strings.Join(reasons, "; ")
}

// Lost reports whether v is a snapshot whose content is lost for good.
func (v *Volume) Lost() bool {
	return v.State == Invalid || v.State == InvalidSuspended
}
