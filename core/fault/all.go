package fault

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Problem is one of several failures that All joined.
type Problem struct {
	Code Code   `json:"code"`
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
}

// problemsKey is the key of the fact that lists each Problem of a joined fault.
const problemsKey = "problems"

// All joins errors into one fault. It ignores nil errors. If none is left, it returns nil; if one is left, it returns
// that error unchanged.
//
// The joined fault has the code of the first error. Its message is all different messages, joined by "; ", and so is
// its hint. Of the facts with the same key, lists of the same type are concatenated; otherwise the first one is kept.
// The fact "problems" is the list of all failures, as []Problem.
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

// Each returns the errors that All joined into err. If err is not a joined fault, the result is err alone; for nil it
// is empty.
func Each(err error) []error {
	if isNil(err) {
		return nil
	}
	e, ok := err.(*Error)
	if !ok || e.Facts[problemsKey] == nil {
		return []error{err}
	}
	joined, ok := e.Err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err} // err was decoded from JSON, which does not hold the causes
	}
	var all []error
	for _, part := range joined.Unwrap() {
		all = append(all, Each(part)...)
	}
	return all
}

// isNil reports whether err is nil or holds a nil *Error. The latter comes about when a function that returns *Error is
// used where an error is wanted.
func isNil(err error) bool {
	e, ok := err.(*Error)
	return err == nil || ok && e == nil
}

// join joins at least one error as All describes.
func join(errs []error) *Error {
	all := &Error{Code: Of(errs[0]).Code, Err: errors.Join(errs...)}
	var list []Problem
	var msgs, hints []string
	for _, err := range errs {
		e := Of(err)
		all.addFacts(e.Facts)
		for _, p := range e.Problems() {
			list = append(list, p)
			msgs = appendNew(msgs, p.Msg)
			hints = appendNew(hints, p.Hint)
		}
	}
	all.Msg = strings.Join(msgs, "; ")
	all.Hint = strings.Join(hints, "; ")
	return all.With(problemsKey, list)
}

// Problems returns the failures that All joined into e, also if e was decoded from JSON. If e is not a joined fault, or
// wraps one and says more than that, the result is e alone.
func (e *Error) Problems() []Problem {
	list := decodeProblems(e.Facts[problemsKey])
	var msgs []string
	for _, p := range list {
		msgs = appendNew(msgs, p.Msg)
	}
	if len(list) == 0 || strings.Join(msgs, "; ") != e.Msg {
		return []Problem{{Code: e.Code, Msg: e.Msg, Hint: e.Hint}}
	}
	return list
}

// decodeProblems returns the fact "problems" as a list, and nil if it is none.
func decodeProblems(fact any) (list []Problem) {
	if list, ok := fact.([]Problem); ok || fact == nil {
		return list
	}
	text, err := json.Marshal(fact)
	if err != nil || json.Unmarshal(text, &list) != nil {
		return nil
	}
	return list
}

// addFacts adds facts to those of e, except "problems". If e has a fact with the same key, lists of the same type are
// concatenated, and otherwise the fact of e is kept.
func (e *Error) addFacts(facts map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(facts)) {
		value := facts[key]
		if key == problemsKey {
			continue
		}
		old, known := e.Facts[key]
		if !known {
			e.With(key, value)
			continue
		}
		if both, ok := concatenated(old, value); ok {
			e.With(key, both)
		}
	}
}

// concatenated returns the elements of a and b as one list. It returns false if they are not lists of the same type. It
// never writes into the array of a, which belongs to another fault.
func concatenated(a, b any) (any, bool) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Kind() != reflect.Slice || va.Type() != vb.Type() {
		return nil, false
	}
	return reflect.AppendSlice(va.Slice3(0, va.Len(), va.Len()), vb).Interface(), true
}

// appendNew appends s to list, unless s is empty or in the list.
func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
