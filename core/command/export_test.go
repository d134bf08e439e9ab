package command

import (
	"io"
	"time"
)

const LongestLine = longestLine

var SplitLine = splitLine

func BatchReader(pipe io.Reader, delay time.Duration, exited, stopped <-chan struct{}) io.Reader {
	return &batchReader{pipe: pipe, delay: delay, exited: exited, stopped: stopped}
}
