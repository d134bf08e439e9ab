package fault

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Problem is one of several failures that were found together.
type Problem struct {
	Code Code   `json:"code"`
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
}

// problems is the fact that lists every Problem of a joined failure.
const problems = "problems"

// All joins what was found into one failure: nil errors do not count, none is
// nil, and a single one is returned as it is. Of several, the first gives the
// code; messages and different hints are joined by "; ", facts that are lists
// are appended to each other, other facts keep their first value, and the fact
// "problems" names each failure as a Problem.
func All(errs ...error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), isNil)
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return join(errs)
}

// Each returns the failures that All joined into err: err alone if it joined
// none, nothing for nil.
func Each(err error) []error {
	if isNil(err) {
		return nil
	}
	e, ok := err.(*Error)
	if !ok || e.Facts[problems] == nil {
		return []error{err}
	}
	joined, ok := e.Err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err} // it came out of JSON and has lost its causes
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, Each(one)...)
	}
	return all
}

// isNil also knows a nil *Error inside a non-nil error interface, which a
// function that returns *Error makes easily.
func isNil(err error) bool {
	e, ok := err.(*Error)
	return err == nil || ok && e == nil
}

func join(errs []error) *Error {
	all := &Error{Code: Of(errs[0]).Code, Err: errors.Join(errs...)}
	var list []Problem
	var msgs, hints []string
	for _, err := range errs {
		e := Of(err)
		all.merge(e.Facts)
		for _, p := range e.problems() {
			list = append(list, p)
			msgs = appendNew(msgs, p.Msg)
			hints = appendNew(hints, p.Hint)
		}
	}
	all.Msg = strings.Join(msgs, "; ")
	all.Hint = strings.Join(hints, "; ")
	return all.With(problems, list)
}

// problems returns the failures that e joins, or e itself as the only one.
func (e *Error) problems() []Problem {
	if list, ok := e.Facts[problems].([]Problem); ok {
		return list
	}
	return []Problem{{Code: e.Code, Msg: e.Msg, Hint: e.Hint}}
}

// merge adds facts to e's own: lists of one type are appended to each other,
// and of other values the first one stays.
func (e *Error) merge(facts map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(facts)) {
		value := facts[key]
		if key == problems {
			continue
		}
		old, known := e.Facts[key]
		if !known {
			e.With(key, value)
			continue
		}
		if both, ok := appended(old, value); ok {
			e.With(key, both)
		}
	}
}

// appended returns a and b as one list, if they are lists of one type. It
// never writes into the storage behind a, which belongs to another failure.
func appended(a, b any) (any, bool) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Kind() != reflect.Slice || va.Type() != vb.Type() {
		return nil, false
	}
	return reflect.AppendSlice(va.Slice3(0, va.Len(), va.Len()), vb).Interface(), true
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
