package rollback

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/filesystem"
)

// With --check the called program must find what a real run would find: that the program itself lies on a member.
func TestCalledProgramIsAHolder(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		t.Fatal(err)
	}
	selfDev := filesystem.Dev{Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev)}
	found := calledProgram([]filesystem.Dev{{Major: 9999}, selfDev})
	if len(found) != 1 || found[0].Path != self || found[0].How != "exe" || found[0].PID != os.Getpid() {
		t.Errorf("%+v", found)
	}
	if found := calledProgram([]filesystem.Dev{{Major: 9999}}); found != nil {
		t.Errorf("on another device: %+v", found)
	}
}

func TestAdviceForCalledProgram(t *testing.T) {
	called := filesystem.Holder{Kind: "process", How: "exe", Path: "/pccehr/lvm_merge", PID: 7, Command: "lvm_merge"}
	shell := filesystem.Holder{Kind: "process", How: "cwd", Path: "/pccehr", PID: 8, Command: "bash"}
	shell.Unit = "session-1.scope"
	other := filesystem.Holder{Kind: "process", How: "fd", Path: "/pccehr/log", PID: 9, Command: "tail"}
	for _, tt := range []struct {
		name    string
		holders []filesystem.Holder
		has     []string
		not     string
	}{
		{"alone", []filesystem.Holder{called}, []string{"copy it to another"}, "services"},
		{"and the caller's shell", []filesystem.Holder{called, shell}, []string{"copy it", "cd /"}, "holders=stop"},
		{"and others", []filesystem.Holder{called, other}, []string{"copy it", "holders=stop"}, "cd /"},
		{"another's program", []filesystem.Holder{{How: "exe", Path: "/pccehr/app"}}, []string{"holders=stop"}, "copy it"},
	} {
		got := advice(tt.holders, nil)
		for _, has := range tt.has {
			if !strings.Contains(got, has) {
				t.Errorf("%s: %q lacks %q", tt.name, got, has)
			}
		}
		if strings.Contains(got, tt.not) {
			t.Errorf("%s: %q has %q", tt.name, got, tt.not)
		}
	}
}
