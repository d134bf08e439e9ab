package simulation

import (
	"slices"

	"go.pcc.com/rewind/core/snapset"
)

// Shrink makes a story smaller for as long as fails says that it still fails.
func Shrink(s Story, fails func(Story) bool) Story {
	for smaller := true; smaller; {
		smaller = false
		for _, candidate := range simpler(s) {
			if fails(candidate) {
				s, smaller = candidate, true
				break
			}
		}
	}
	return s
}

// simpler returns stories that have a little less than s.
func simpler(s Story) []Story {
	var all []Story
	for i := range s.Events {
		c := s
		c.Events = slices.Delete(slices.Clone(s.Events), i, i+1)
		all = append(all, c)
	}
	if s.Rounds > 1 {
		c := s
		c.Rounds--
		all = append(all, c)
	}
	for i := range s.Before {
		c := s
		c.Before = slices.Delete(slices.Clone(s.Before), i, i+1)
		all = append(all, c)
	}
	for _, g := range s.Server.Groups {
		for _, v := range g.Volumes {
			if c, ok := s.without(g.Name + "/" + v.Name); ok {
				all = append(all, c)
			}
		}
	}
	return append(all, plainer(s)...)
}

// plainer returns stories with fewer peculiarities.
func plainer(s Story) []Story {
	var all []Story
	for i := range s.Server.Mounted {
		c := s
		c.Server.Mounted = slices.Delete(slices.Clone(s.Server.Mounted), i, i+1)
		if s.Server.Journal != s.Server.Mounted[i] {
			all = append(all, c)
		}
	}
	if s.Server.Journal != "" {
		c := s
		c.Server.Journal = ""
		all = append(all, c)
	}
	if s.Server.OldKernel {
		c := s
		c.Server.OldKernel = false
		all = append(all, c)
	}
	if s.Request.Size != "" {
		c := s
		c.Request.Size = ""
		all = append(all, c)
	}
	for i, e := range s.Events {
		if e.Prepared || e.Effect {
			c := s
			c.Events = slices.Clone(s.Events)
			c.Events[i].Prepared, c.Events[i].Effect = false, false
			all = append(all, c)
		}
	}
	return all
}

// without returns the story without a volume, unless that would leave the request without any.
func (s Story) without(name string) (Story, bool) {
	s.Server = s.Server.without(name)
	drop := func(r snapset.Request) snapset.Request {
		r.Volumes = slices.DeleteFunc(slices.Clone(r.Volumes), func(v snapset.Volume) bool { return v.Name == name })
		return r
	}
	had := len(s.Request.Volumes)
	s.Request = drop(s.Request)
	before := slices.Clone(s.Before)
	for i, step := range before {
		if step.Request != nil {
			dropped := drop(*step.Request)
			if len(dropped.Volumes) == 0 {
				return s, false
			}
			before[i].Request = &dropped
		}
	}
	s.Before = before
	return s, len(s.Request.Volumes) > 0 || had == 0
}
