package rollback

// The steps of the journal.
const (
	stepChecked    = "checked"
	stepStopping   = "stopping"
	stepUnmounting = "unmounting"
	stepUndoing    = "undoing" // back from one of the above
	stepUndone     = "undone"
	StepDeferred   = "deferred" // LVM merges when the volumes are activated next
	stepMerging    = "merging"  // the point of no return, once the first merge has begun
	stepMounting   = "mounting"
	stepStarting   = "starting"
	StepStarted    = "started" // the volumes are in use; merges may go on
	stepMerged     = "merged"
)

// way is what becomes of a rollback that is interrupted after a step.
type way int

const (
	turnsBack  way = iota // LVM was not told to merge
	lvmDecides            // LVM was told, or was about to be: back unless its metadata shows that a merge has begun
	goesOn                // every member merges or is merged
)

// steps are all steps in their order, each with its way. Whoever must know where a rollback stands asks wayOf.
var steps = []struct {
	name string
	way  way
}{
	{stepChecked, turnsBack},
	{stepStopping, turnsBack},
	{stepUnmounting, turnsBack},
	{stepUndoing, turnsBack},
	{stepUndone, turnsBack},
	{StepDeferred, lvmDecides},
	{stepMerging, lvmDecides},
	{stepMounting, goesOn},
	{stepStarting, goesOn},
	{StepStarted, goesOn},
	{stepMerged, goesOn},
}

// wayOf is the way from a step. A rollback without a step has not begun. A step of another version of this program is
// taken for one from which it goes on: that merges nothing that is merged already.
func wayOf(step string) way {
	if step == "" {
		return turnsBack
	}
	for _, s := range steps {
		if s.name == step {
			return s.way
		}
	}
	return goesOn
}
