package rollback

// The steps of a rollback in the journal.
const (
	stepChecked    = "checked"
	stepStopping   = "stopping"
	stepUnmounting = "unmounting"
	stepUndoing    = "undoing" // after a failure in one of the steps above
	stepUndone     = "undone"
	StepDeferred   = "deferred" // LVM merges at the next activation of the volumes
	stepMerging    = "merging"  // past the point of no return as soon as the first merge has begun
	stepMounting   = "mounting"
	stepStarting   = "starting"
	StepStarted    = "started" // the volumes are in use; merges may go on
	stepMerged     = "merged"
)

// direction says how a rollback that was interrupted after a step is continued.
type direction int

const (
	backward   direction = iota // it is undone: LVM was not told to merge
	lvmDecides                  // LVM may have been told to merge: it is undone unless LVM's metadata shows a begun merge
	forward                     // it is completed: every member merges or is merged
)

// steps lists all steps in their order, each with its direction.
var steps = []struct {
	name string
	way  direction
}{
	{stepChecked, backward},
	{stepStopping, backward},
	{stepUnmounting, backward},
	{stepUndoing, backward},
	{stepUndone, backward},
	{StepDeferred, lvmDecides},
	{stepMerging, lvmDecides},
	{stepMounting, forward},
	{stepStarting, forward},
	{StepStarted, forward},
	{stepMerged, forward},
}

// directionOf returns the direction of a rollback at a step. Without a step the rollback has not begun. An unknown
// step, from another version of this program, counts as forward: that merges nothing that is merged already.
func directionOf(step string) direction {
	if step == "" {
		return backward
	}
	for _, s := range steps {
		if s.name == step {
			return s.way
		}
	}
	return forward
}
