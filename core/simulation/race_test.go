//go:build race

package simulation

// With the race detector a story takes six times as long.
const usualSeeds = 200
