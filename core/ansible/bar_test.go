package ansible_test

import (
	"bytes"
	"testing"

	"go.pcc.com/rewind/core/ansible"
)

func TestBarOnATerminalRewritesOneLine(t *testing.T) {
	var b bytes.Buffer
	bar := ansible.Bar(&b, true)
	bar.Show("vg00/pccehr", 0, 0)
	bar.Show("vg00/dat", 52.9, 1<<30)
	bar.Show("waiting", -1, 0)
	bar.Done()
	bar.Done()
	want := "\rvg00/pccehr [....................]   0 %" +
		"\rvg00/dat [##########..........]  52 % 1.0 GiB" +
		"\rwaiting                                      \n"
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestBarElsewhereWritesALineForEachTenth(t *testing.T) {
	var b bytes.Buffer
	bar := ansible.Bar(&b, false)
	for percent := range 26 {
		bar.Show("a", float64(percent), 0)
		bar.Show("b", -1, 0)
	}
	bar.Show("a", 170, 0)
	bar.Done()
	want := "a [....................]   0 %\nb\n" +
		"a [##..................]  10 %\n" +
		"a [####................]  20 %\n" +
		"a [####################] 100 %\n"
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
