package durable

// BeforeChange is called with a path before the file there is replaced or removed, or a link is made. If it returns an
// error, nothing is changed and the change fails with it. It is nil except in tests, where files may be refused or a
// process may end between two of them.
var BeforeChange func(path string) error

func beforeChange(path string) error {
	if BeforeChange == nil {
		return nil
	}
	return BeforeChange(path)
}
