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

func TestBytesUsesBinaryUnits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB",
		1 << 30: "1.0 GiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := ansible.Bytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
