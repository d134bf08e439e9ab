package access

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
)

func TestParseEnvironment(t *testing.T) {
	const text = "# a comment\n\nRESTIC_PASSWORD=sword fish\nexport AWS_KEY='a=b # c'\n  QUOTED=\"$HOME `id`\"  \nEMPTY=\n"
	want := map[string]string{"RESTIC_PASSWORD": "sword fish", "AWS_KEY": "a=b # c", "QUOTED": "$HOME `id`", "EMPTY": ""}
	got, err := ParseEnvironment(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseEnvironmentErrorNamesOnlyTheLine(t *testing.T) {
	for _, text := range []string{
		"A=1\nswordfish", "A=1\n1A=swordfish", "A=1\nB='swordfish", "A=1\nB=\"sword\"fish\"", "A=1\n =swordfish",
	} {
		_, err := ParseEnvironment(text)
		if err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "sword") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseEnvironment(f *testing.F) {
	f.Add("A=1\nexport B='2'")
	f.Fuzz(func(t *testing.T, text string) {
		env, err := ParseEnvironment(text)
		if err != nil {
			return
		}
		for key := range env {
			if !variableName.MatchString(key) {
				t.Errorf("a variable called %q", key)
			}
		}
	})
}

// The variables of the file are given to programs that run as root, and one of them may be LD_PRELOAD.
func TestEnvironmentFileOthersCanWriteIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "env")
	if err := os.WriteFile(path, []byte("RESTIC_PASSWORD=canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		_, err := Arguments{EnvironmentFile: path}.Secrets(ansible.Call{})
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for _, writable := range []string{path, dir} {
		before, err := os.Stat(writable)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(writable, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := read(); !errors.Is(err, fault.BadArguments) || fault.Of(err).Hint != "chmod go-w "+writable {
			t.Errorf("others can write to %s: %v", writable, err)
		}
		if err := os.Chmod(writable, before.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}

// A FIFO to which nobody writes would be waited for without a limit, and a device may have no end.
func TestSecretsAreReadFromFilesOnly(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/zero", dir, filepath.Join(dir, "none")} {
		if secret, ok := readSecret(path); ok {
			t.Errorf("%s holds %q", path, secret)
		}
	}
	if data, err := readTrusted(fifo); err != nil || len(data) > 0 {
		t.Errorf("read %q, %v", data, err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxEnvironment+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTrusted(large); !errors.Is(err, fault.BadArguments) {
		t.Errorf("a large file: %v", err)
	}
}

// A schedule is planned in one directory and made in another.
func TestRelativeEnvironmentFileIsRefused(t *testing.T) {
	a := Defaults()
	a.EnvironmentFile = "restic.env"
	if err := a.Validate(); err == nil || !strings.Contains(err.Error(), "environment_file") {
		t.Errorf("got %v", err)
	}
}
