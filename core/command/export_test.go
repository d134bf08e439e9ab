package command

import (
	"io"
	"time"
)

const LongestLine = longestLine

var SplitLine = splitLine

func Unhurried(file io.Reader, lull time.Duration, over, quit <-chan struct{}) io.Reader {
	return &unhurried{file: file, lull: lull, over: over, quit: quit}
}
