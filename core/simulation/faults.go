package simulation

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what goes wrong at a command or a call.
type Kind string

// The kinds of what goes wrong.
const (
	Fails       Kind = "fails, and changes nothing"
	FailsAfter  Kind = "does its work, and fails"
	DiskFull    Kind = "fails: No space left on device"
	Halfway     Kind = "is killed halfway" // with an origin's device left suspended
	Dies        Kind = "the process is killed before it"
	DiesAfter   Kind = "the process is killed after it"
	HalfwayDies Kind = "is killed halfway, together with the process"
	Cut         Kind = "the power fails before it"
	CutAfter    Kind = "the power fails after it"
	Hangs       Kind = "hangs"
	AskedToEnd  Kind = "before it the process is asked to end"
	Meanwhile   Kind = "before it an administrator"
)

// Point is a command or a call in one process of a story.
type Point struct {
	Phase   int    // which process, from 0
	Command string // see signature
	Nth     int    // how often that process had run the same before
}

// Event is something that goes wrong at a Point.
type Event struct {
	Point
	Kind     Kind
	Prepared bool          // Halfway: the device has a prepared table, too
	Effect   bool          // Halfway: the command had done its work
	Delay    time.Duration // Hangs
	Action   Action        // Meanwhile
}

func (e Event) String() string {
	text := fmt.Sprintf("%s, %q", phaseName(e.Phase), e.Command)
	if e.Nth > 0 {
		text += fmt.Sprintf(" (number %d)", e.Nth+1)
	}
	text += ": " + string(e.Kind)
	switch e.Kind {
	case Halfway, HalfwayDies:
		text += fmt.Sprintf("; a table is prepared: %v, its work was done: %v", e.Prepared, e.Effect)
	case Hangs:
		text += " for " + e.Delay.String()
	case Meanwhile:
		text += " " + e.Action.String()
	}
	return text
}

// phasesOfRound is how many processes can be at work in a round: the run, the settling after it, and for each boot the
// guard and what resumes.
const phasesOfRound = 8

// phaseName names a process of a story.
func phaseName(phase int) string {
	round, n := phase/phasesOfRound+1, phase%phasesOfRound
	switch {
	case phase >= quiet:
		return "without faults"
	case n == 0:
		return fmt.Sprintf("run %d", round)
	case n == 1:
		return fmt.Sprintf("settling %d", round)
	case n%2 == 0:
		return fmt.Sprintf("boot %d of round %d, before the mounts", n/2, round)
	}
	return fmt.Sprintf("boot %d of round %d, after the mounts", n/2, round)
}

// signature names a command without what differs from run to run: its verb, what tells it from others of that verb, and
// the volumes or the device.
func signature(argv []string) string {
	if argv[0] == "device-mapper" || argv[0] == "lock" {
		return strings.Join(argv, " ")
	}
	words := []string{strings.Join(argv[:2], " ")}
	if argv[0] == "lvm" {
		words = []string{argv[1]}
	}
	for i, word := range argv {
		switch {
		case word == "--":
			return strings.Join(append(words, argv[i+1:]...), " ")
		case slices.Contains([]string{"--refresh", "--activate", "--deltag", "--setactivationskip", "--poll"}, word),
			word == "--addtag" && argv[1] == "lvchange" && !slices.Contains(words, word):
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// changesVolumes reports whether the command suspends an origin while it works.
func changesVolumes(command string) bool {
	for _, verb := range []string{"lvcreate ", "lvremove ", "lvextend ", "lvchange --refresh ", "lvconvert "} {
		if strings.HasPrefix(command, verb) {
			return true
		}
	}
	return false
}

// isCallOfHost reports whether the command is a call to systemd or to the kernel about mounts and devices.
func isCallOfHost(command string) bool {
	verb, _, _ := strings.Cut(command, " ")
	return slices.Contains([]string{"mount", "unmount", "systemd", "open", "write-protect"}, verb)
}

// kindsFor returns what can go wrong at a command, the more often the more likely.
func kindsFor(command string) []Kind {
	kinds := []Kind{Dies, Dies, Cut, Fails, Fails}
	switch {
	case strings.HasPrefix(command, "device-mapper suspend"):
		kinds = append(kinds, DiesAfter, DiesAfter, CutAfter, Hangs, Hangs, Hangs)
	case strings.HasPrefix(command, "device-mapper"):
		kinds = append(kinds, DiesAfter, DiesAfter, CutAfter, Meanwhile)
	case strings.HasPrefix(command, "dmsetup "):
		return []Kind{Dies, Dies, Cut, Fails}
	case isCallOfHost(command):
		kinds = append(kinds, DiesAfter, DiesAfter, CutAfter, AskedToEnd)
	case strings.HasPrefix(command, "file "):
		return []Kind{Dies, Dies, Cut, Cut, Fails, DiskFull, DiskFull, DiskFull}
	case strings.HasPrefix(command, "lvconvert "):
		kinds = append(kinds, FailsAfter, FailsAfter, DiskFull, Halfway, Halfway, HalfwayDies, DiesAfter, DiesAfter, CutAfter,
			AskedToEnd, Meanwhile, Meanwhile, Hangs, Hangs)
	case changesVolumes(command):
		kinds = append(kinds, FailsAfter, FailsAfter, DiskFull, Halfway, Halfway, HalfwayDies, DiesAfter, DiesAfter, CutAfter,
			AskedToEnd, Meanwhile, Meanwhile)
	case strings.HasPrefix(command, "lvchange"):
		kinds = append(kinds, FailsAfter, DiskFull, DiesAfter, DiesAfter, CutAfter, AskedToEnd, Meanwhile, Meanwhile)
	default:
		kinds = append(kinds, AskedToEnd, Meanwhile, Meanwhile, Meanwhile)
	}
	return kinds
}

// drawer draws what goes wrong at each point. It draws the same for the same point, whatever came before.
type drawer struct {
	seed    uint64
	rates   []float64 // how likely it is that something goes wrong at a point, by phase; no rate: nothing does
	most    int       // how many events a phase has at most
	daemons []Daemon  // the services of the server
}

// draw draws what goes wrong at a point; false if nothing does. met is how many events the process has met already:
// misfortunes come together.
func (d *drawer) draw(p Point, met int, state func() []volume) (Event, bool) {
	if p.Phase >= len(d.rates) || met >= d.most {
		return Event{}, false
	}
	rate := d.rates[p.Phase]
	if met > 0 {
		rate = max(rate, 0.2)
	}
	h := fnv.New64a()
	fmt.Fprintln(h, p)
	r := rand.New(rand.NewPCG(d.seed, h.Sum64()))
	if r.Float64() >= rate {
		return Event{}, false
	}
	kinds := kindsFor(p.Command)
	e := Event{Point: p, Kind: kinds[r.IntN(len(kinds))], Prepared: r.IntN(2) == 0, Effect: r.IntN(2) == 0}
	e.Delay = []time.Duration{100 * time.Millisecond, 20 * time.Second, 2 * time.Minute}[r.IntN(3)]
	if e.Kind != Hangs {
		e.Delay = 0
	}
	if e.Kind != Halfway && e.Kind != HalfwayDies {
		e.Prepared, e.Effect = false, false
	}
	if e.Kind == Meanwhile {
		e.Action = drawAction(r, state())
		if len(d.daemons) > 0 && r.IntN(4) == 0 {
			e.Action = drawServerAction(r, d.daemons)
		}
		return e, e.Action.Verb != ""
	}
	return e, true
}
