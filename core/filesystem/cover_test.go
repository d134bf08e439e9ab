package filesystem

import "testing"

func TestCoverNamesWhatHidesAMount(t *testing.T) {
	root := Mount{ID: 1, Parent: 0, Point: "/"}
	member := Mount{ID: 2, Parent: 1, Point: "/srv/x"}
	nested := Mount{ID: 3, Parent: 2, Point: "/srv/x/below"}
	over := Mount{ID: 4, Parent: 1, Point: "/srv"}
	onTop := Mount{ID: 5, Parent: 2, Point: "/srv/x"}
	for name, c := range map[string]struct {
		table []Mount
		of    Mount
		want  int // the ID of the mount that hides it; 0: none
	}{
		"alone":                      {[]Mount{root, member, nested}, member, 0},
		"in another mount":           {[]Mount{root, member, nested}, nested, 0},
		"another one above it":       {[]Mount{root, member, over}, member, 4},
		"one on top of it":           {[]Mount{root, member, onTop}, member, 5},
		"another one above its own":  {[]Mount{root, member, nested, over}, nested, 4},
		"the one on top is reached":  {[]Mount{root, member, onTop}, onTop, 0},
		"a table without the parent": {[]Mount{member}, member, 0},
	} {
		if got, _ := Cover(c.table, c.of); got.ID != c.want {
			t.Errorf("%s: hidden by %d, want %d", name, got.ID, c.want)
		}
	}
}
