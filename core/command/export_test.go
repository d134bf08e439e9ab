package command

const LongestLine = longestLine

var SplitLine = splitLine
