package rsync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/plugins/backends/rsync"
)

// server is an sshd on a loopback address, with keys of its own.
type server struct {
	dir  string // of its keys and configuration
	port int
}

// onlyRsync begins a line of authorized_keys whose key may run nothing but rsync.
const onlyRsync = `restrict,command="case \"$SSH_ORIGINAL_COMMAND\" in ` +
	`'rsync --server '*) exec $SSH_ORIGINAL_COMMAND;; esac; exit 1" `

// startSSHD starts sshd, and ends it at the end of the test.
func startSSHD(t *testing.T) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), port: freePort(t)}
	for _, key := range []string{"host", "user", "limited", "stranger"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.path(key))
	}
	s.write(t, "authorized", s.read(t, "user.pub")+onlyRsync+s.read(t, "limited.pub"))
	s.write(t, "known", fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.read(t, "host.pub")))
	s.write(t, "wrong", fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.read(t, "stranger.pub")))
	s.write(t, "config", strings.Join([]string{
		"ListenAddress 127.0.0.1:" + strconv.Itoa(s.port), "HostKey " + s.path("host"), "AuthorizedKeysFile " +
			s.path("authorized"),
		"PidFile none", "StrictModes no", "UsePAM no", "KexAlgorithms curve25519-sha256",
		"SetEnv SHLVL=1", // else bash would read the .bashrc of whoever runs the tests
		"PermitRootLogin prohibit-password", "PasswordAuthentication no", "",
	}, "\n"))
	must(t, os.MkdirAll("/run/sshd", 0o755)) // the directory of sshd's privilege separation
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.path("config"))
	log, err := os.Create(s.path("log"))
	must(t, err)
	sshd.Stderr = log
	must(t, sshd.Start())
	t.Cleanup(func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait()
		log.Close()
		if t.Failed() {
			t.Logf("sshd:\n%.4000s", s.read(t, "log"))
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
		if err == nil {
			conn.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not answer: %v", err)
		}
	}
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(s.path(name))
	must(t, err)
	return string(data)
}

func (s *server) write(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.WriteFile(s.path(name), []byte(text), 0o600))
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func run(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

// config returns a configuration whose path is a new directory on the server.
func (s *server) config(t *testing.T) backup.Config {
	t.Helper()
	return backup.Config{
		Options: map[string]any{
			"path": "root@127.0.0.1:" + t.TempDir(), "ssh_port": s.port, "ssh_key": s.path("user"),
			"known_hosts": s.path("known"),
			"scratch":     t.TempDir(),
		},
		Environment: map[string]string{"SSH_ASKPASS": "/canary"},
		Scratch:     t.TempDir(),
	}
}

// A key that may run nothing but rsync is enough. There is only a warning that the other host was not told to sync.
func TestKeyLimitedToRsyncIsEnough(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	fx := newFixture(t)
	fx.config = s.config(t)
	fx.config.Options["ssh_key"] = s.path("limited")
	stored := fx.store(t)
	if len(stored.Warnings) != 1 || !strings.Contains(stored.Warnings[0], "sync") {
		t.Errorf("warnings %q", stored.Warnings)
	}
	_, err := fx.Check(t.Context(), fx.config)
	must(t, err)
	fx.verifyPresented(t, stored.ID)
	must(t, fx.Forget(t.Context(), fx.config, stored.ID))
	must(t, fx.Settle(t.Context(), fx.config))
	fx.config.Options["ssh_key"] = s.path("user")
	if stored := fx.store(t); len(stored.Warnings) > 0 {
		t.Errorf("the other key may sync: %q", stored.Warnings)
	}
}

func TestSSHFailureSaysWhy(t *testing.T) {
	s := startSSHD(t)
	for name, tt := range map[string]struct {
		option string
		value  any
		says   string
	}{
		"another host key": {"known_hosts", s.path("wrong"),
			"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"},
		"an unknown key": {"ssh_key", s.path("stranger"), "Permission denied"},
		"nobody there":   {"ssh_port", freePort(t), "Connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t)
			fx.config = s.config(t)
			fx.config.Options[tt.option] = tt.value
			_, stored := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
			_, checked := fx.Check(t.Context(), fx.config)
			for method, err := range map[string]error{"Check": checked, "Store": stored} {
				f := fault.Of(err)
				if f == nil || f.Code != fault.CommandFailed || !strings.Contains(f.Hint, "known_hosts") {
					t.Fatalf("%s: %v", method, err)
				}
				found := false
				for _, text := range strings.Split(tt.says, "|") {
					found = found || strings.Contains(f.Facts["stderr"].(string), text)
				}
				if tt.option == "known_hosts" && !strings.Contains(f.Msg, "REMOTE HOST IDENTIFICATION HAS CHANGED") {
					t.Errorf("%s: %s", method, f.Msg)
				}
				if !found || strings.Contains(f.Error(), "unexplained") {
					t.Errorf("%s: %v\n%v", method, err, f.Facts["stderr"])
				}
			}
		})
	}
}

// A user on the other host who is not root loses owners and some permissions, and rsync does not report that. Check
// does. With fake_super they are kept.
func TestCheckRefusesUserWhoIsNotRoot(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	const unprivileged = `command="exec setpriv --reuid 65534 --regid 65534 --clear-groups $SSH_ORIGINAL_COMMAND" `
	s.write(t, "authorized", unprivileged+s.read(t, "user.pub"))
	c := s.config(t)
	_, dir, _ := strings.Cut(c.Options["path"].(string), ":")
	for at := dir; strings.HasPrefix(at, os.TempDir()+"/"); at = filepath.Dir(at) {
		must(t, os.Chmod(at, 0o755))
	}
	must(t, os.Chown(dir, 65534, 65534))
	_, err := rsync.New().Check(t.Context(), c)
	if f := fault.Of(err); f == nil || f.Code != fault.Unsupported || !strings.Contains(f.Msg, " would lose owners") ||
		!strings.Contains(f.Hint, "fake_super") {
		t.Errorf("got %v", err)
	}
	c.Options["fake_super"] = true
	_, err = rsync.New().Check(t.Context(), c)
	must(t, err)
	checkEmpty(t, dir)
}

func TestAcceptNewHostKeyTrustsUnknownHost(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	s.write(t, "fresh", "")
	c := s.config(t)
	c.Options["known_hosts"] = s.path("fresh")
	if _, err := rsync.New().Check(t.Context(), c); err == nil {
		t.Error("an unknown host is trusted")
	}
	c.Options["accept_new_host_key"] = true
	_, err := rsync.New().Check(t.Context(), c)
	must(t, err)
	if !strings.Contains(s.read(t, "fresh"), "ssh-ed25519") {
		t.Error("the host's key was not kept")
	}
}

// A lock whose process is alive keeps others out. A lock whose process has ended, or was of an earlier boot of this
// machine, does not.
func TestRemoteLockOfDeadProcessIsRemoved(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	machine, _ := os.ReadFile("/etc/machine-id")
	host, err := os.Hostname()
	must(t, err)
	self := map[string]any{
		"host": host, "machine": strings.TrimSpace(string(machine)), "boot": strings.TrimSpace(string(boot)),
		"pid":     os.Getpid(),
		"started": startTime(t), "hardware": backup.Hardware(),
	}
	with := func(key string, value any) map[string]any {
		m := maps.Clone(self)
		m[key] = value
		return m
	}
	for name, tt := range map[string]struct {
		holder any
		locked bool
	}{
		"alive":                    {self, true},
		"another process's number": {with("started", "1"), false},
		"another hardware":         {with("hardware", "other"), true},
		"an earlier boot, if the hardware is known": {with("boot", "00000000-0000-0000-0000-000000000000"),
			backup.Hardware() == ""},
		"another machine": {with("machine", "other"), true},
		"cannot be read":  {"x", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t)
			fx.config = s.config(t)
			dir := strings.TrimPrefix(fx.config.Options["path"].(string), "root@127.0.0.1:")
			data, err := json.Marshal(tt.holder)
			must(t, err)
			must(t, os.Mkdir(filepath.Join(dir, "db1"), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "db1", ".lock-x.json"), data, 0o600))
			_, err = fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
			if errors.Is(err, fault.RepositoryLocked) != tt.locked || !tt.locked && err != nil {
				t.Errorf("got %v", err)
			}
			locks, err := filepath.Glob(filepath.Join(dir, "db1", ".lock-*"))
			if err != nil || tt.locked != (len(locks) == 1) || len(locks) > 1 {
				t.Errorf("locks left: %v, %v", locks, err)
			}
		})
	}
}

func startTime(t *testing.T) string {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	must(t, err)
	_, fields, _ := strings.Cut(string(stat), ") ")
	return strings.Fields(fields)[19]
}

// A tree that was fetched to be read is removed afterwards, even if its reader fails.
func TestFetchedTreeIsRemoved(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	fx := newFixture(t)
	fx.config = s.config(t)
	mine := errors.New("mine")
	err := fx.Present(t.Context(), fx.config, fx.store(t).ID, ignoreProgress,
		func(_ context.Context, p backup.Presented) error {
			rooms, err := os.ReadDir(fx.config.Options["scratch"].(string))
			if err != nil || len(rooms) != 1 || len(p.Roots) == 0 {
				t.Errorf("laid out in %v, %v", rooms, err)
			}
			if info, err := rooms[0].Info(); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("others can enter %s, in which a backup is laid out: %v", rooms[0], err)
			}
			return mine
		})
	if err != mine {
		t.Errorf("got %v", err)
	}
	checkEmpty(t, fx.config.Options["scratch"].(string))
	checkEmpty(t, fx.config.Scratch)
}

// A tree on another host cannot be locked. If it was removed while it was fetched, it is not presented.
func TestBackupRemovedWhileFetchedIsNotPresented(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	fx := newFixture(t)
	fx.config = s.config(t)
	stored := fx.store(t)
	dir := strings.TrimPrefix(fx.config.Options["path"].(string), "root@127.0.0.1:")
	removed := false
	err := fx.Present(t.Context(), fx.config, stored.ID, func(backup.Progress) {
		if !removed {
			removed = true
			must(t, os.Remove(filepath.Join(dir, "db1", "20261123T200000Z.json")))
		}
	}, func(context.Context, backup.Presented) error {
		t.Error("it is presented")
		return nil
	})
	if !removed || !errors.Is(err, fault.NotFound) {
		t.Errorf("removed %v, got %v", removed, err)
	}
	checkEmpty(t, fx.config.Options["scratch"].(string))
}

func TestMissingScratchIsNamed(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	fx := newFixture(t)
	fx.config = s.config(t)
	delete(fx.config.Options, "scratch")
	err := fx.Present(t.Context(), fx.config, fx.store(t).ID, ignoreProgress,
		func(context.Context, backup.Presented) error { return nil })
	if f := fault.Of(err); f == nil || f.Code != fault.BadArguments || !strings.Contains(f.Msg, "scratch: ") {
		t.Errorf("got %v", err)
	}
}
