package ansible

import "strings"

// nearest returns the candidate that was probably meant by a misspelt word, and "" if none is similar.
func nearest(word string, candidates []string) string {
	best, least := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), c); d < least {
			best, least = c, d
		}
	}
	if best != "" || len(word) < 3 {
		return best
	}
	for _, c := range candidates {
		if strings.HasPrefix(c, word) || len(c) >= 3 && strings.HasPrefix(word, c) {
			return c
		}
	}
	return ""
}

// distance returns how many letters have to be inserted, removed, replaced, or swapped with their neighbour to turn a
// into b (optimal string alignment distance).
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a) // no argument has such a long name, and the table would get large
	}
	var beforePrevious []int
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current := make([]int, len(b)+1)
		current[0] = i
		for j := 1; j <= len(b); j++ {
			replace := previous[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			current[j] = min(previous[j]+1, current[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], beforePrevious[j-2]+1)
			}
		}
		beforePrevious, previous = previous, current
	}
	return previous[len(b)]
}
