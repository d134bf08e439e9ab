package servicetest

import (
	"maps"
	"slices"
)

// opposite has the property that the other unit has (org.freedesktop.systemd1(5)).
var opposite = bothWays(map[string]string{
	"After": "Before", "Requires": "RequiredBy", "Requisite": "RequisiteOf", "Wants": "WantedBy", "BindsTo": "BoundBy",
	"PartOf": "ConsistsOf", "Upholds": "UpheldBy", "PropagatesStopTo": "StopPropagatedFrom", "Triggers": "TriggeredBy",
})

func bothWays(m map[string]string) map[string]string {
	all := map[string]string{}
	for property, other := range m {
		all[property], all[other] = other, property
	}
	return all
}

func has(names []string, name string) bool { return slices.Contains(names, name) }

func contains(units []*Unit, u *Unit) bool { return slices.Contains(units, u) }

// relations returns the units that a unit has to do with, by property.
func (f *Fake) relations(u *Unit) map[string][]string {
	all := map[string][]string{}
	for property := range u.Deps {
		all[property] = slices.Clone(u.Deps[property])
	}
	for property := range opposite {
		if list := f.related(u, property); len(list) > 0 {
			all[property] = list
		}
	}
	return all
}

// related returns the units that a unit names in a property, and those that name the unit in the opposite one.
func (f *Fake) related(u *Unit, property string) []string {
	list := f.own(u, property)
	for name, other := range f.all() {
		if !has(list, name) && has(f.own(other, opposite[property]), u.name) {
			list = append(list, name)
		}
	}
	return list
}

// own returns the units that a unit itself names in a property.
func (f *Fake) own(u *Unit, property string) []string {
	return slices.Clone(u.Deps[property])
}

// isAfter reports whether a unit is ordered after another one.
func (f *Fake) isAfter(u, other *Unit) bool {
	return has(f.own(u, "After"), other.name) || has(f.own(other, "Before"), u.name)
}

// needs returns the units without which a start of a unit fails.
func (f *Fake) needs(u *Unit) []string {
	return slices.Concat(f.related(u, "Requires"), f.related(u, "BindsTo"))
}

// pull adds a unit to pulled; if pulls is set also all that it requires and wants, in any number of steps, also if it
// runs already. An error says that the unit, or one that it needs, does not exist. What is only wanted may be missing.
func (f *Fake) pull(name string, pulls bool, pulled map[string]*Unit) error {
	u := f.units[name]
	if u == nil || u.Load != "loaded" {
		return noSuchUnit(name)
	}
	if pulled[name] != nil {
		return nil
	}
	pulled[name] = u
	if !pulls {
		return nil
	}
	for _, needed := range f.needs(u) {
		if err := f.pull(needed, true, pulled); err != nil {
			return err
		}
	}
	for _, wanted := range f.related(u, "Wants") {
		if more := maps.Clone(pulled); f.pull(wanted, true, more) == nil {
			maps.Copy(pulled, more)
		}
	}
	return nil
}
