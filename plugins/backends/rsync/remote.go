package rsync

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// remote is a directory of another host. Everything there is done with rsync. Small files are written to a temporary
// directory in Scratch and sent, or fetched into one and read.
type remote struct{ *tool }

// tempDir returns a new directory in Scratch, and a function that removes it.
func (r remote) tempDir() (string, func(), error) {
	dir, err := os.MkdirTemp(r.config.Scratch, "stage-")
	if err != nil {
		return "", nil, fault.New(fault.CommandFailed, "stage what is sent: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// fetchMarkers fetches the markers, the locks and the note of the machine of a host, or of all hosts if host is "", and
// an empty directory for each tree.
func (r remote) fetchMarkers(ctx context.Context, into, host string) error {
	hostPattern := "*"
	if host != "" {
		hostPattern = host
	}
	// lost+found is not the directory of a host, and only root may enter it.
	cmd := r.cmd("-r", "--exclude=/lost+found/",
		"--include=/"+hostPattern+"/", "--include=/"+hostPattern+"/*"+markerSuffix, "--include=/"+hostPattern+"/*/",
		"--include=/"+hostPattern+"/"+backup.MachineFile, "--exclude=*",
		r.options.target()+"/", into+"/")
	for attempt := range maxFetches {
		_, err := r.Stream(ctx, cmd, func(string) {})
		var failed *command.Error
		if gone := errors.As(err, &failed) && failed.Code == exitVanished; !gone || attempt == maxFetches-1 {
			return r.explain("read the backups in "+r.options.Path, err)
		}
	}
	return nil
}

// maxFetches is how often fetchMarkers tries again if files vanish meanwhile, as locks and markers of other hosts may.
const maxFetches = 5

func (r remote) readTrees(ctx context.Context, host string) ([]datedTree, error) {
	dir, done, err := r.tempDir()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := r.fetchMarkers(ctx, dir, host); err != nil {
		return nil, err
	}
	return readTrees(dir, host)
}

// sendFile sends one small file to the directory of a host, or, if host is "", to the place itself.
func (r remote) sendFile(ctx context.Context, host, name string, data []byte) error {
	dir, done, err := r.tempDir()
	if err != nil {
		return err
	}
	defer done()
	if err := os.MkdirAll(filepath.Join(dir, host), 0o700); err != nil {
		return fault.New(fault.CommandFailed, "stage what is sent: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, host, name), data, 0o600); err != nil {
		return fault.New(fault.CommandFailed, "stage what is sent: %w", err)
	}
	// With -R the part before "/./" is not part of the path on the other host.
	return r.call(ctx, "write to "+r.options.Path, "-pR", dir+"/./"+filepath.Join(host, name), r.options.target()+"/")
}

// erase removes the named entries of the directory of a host. rsync makes that directory equal to an empty one, but
// only as far as these names are concerned.
func (r remote) erase(ctx context.Context, host string, names []string, report backup.Report) error {
	dir, done, err := r.tempDir()
	if err != nil {
		return err
	}
	defer done()
	// The other host does the work, so the processor time of this rsync does not show that it goes on. Therefore rsync has
	// to write a line for each name that it deletes.
	args := []string{"-r", "--delete", "--info=del", "--outbuf=L"}
	for _, name := range names {
		args = append(args, "--include=/"+name, "--include=/"+name+"/**")
	}
	args = append(args, "--exclude=*", dir+"/", r.options.target(host)+"/")
	cmd := r.cmd(args...)
	cmd.Limit = 0 // a tree may have millions of files
	_, err = r.Stream(ctx, cmd, func(string) { report(backup.Progress{Label: "removing " + names[0]}) })
	return r.explain("remove from "+r.options.Path, err)
}

// lock writes a lock file of its own and only then looks for those of others. If two runs do so at the same time, at
// least one of them sees the other's lock.
func (r remote) lock(ctx context.Context, host string) (heldHost, error) {
	if _, err := r.readTrees(ctx, host); err != nil {
		return heldHost{}, err // checked first, because rsync would make a directory that is missing
	}
	holder, err := thisProcess()
	if err != nil {
		return heldHost{}, err
	}
	data, err := json.Marshal(holder)
	if err != nil {
		return heldHost{}, fault.New(fault.Internal, "make a lock: %w", err)
	}
	name := lockPrefix + "-" + randomName() + markerSuffix
	if err := r.sendFile(ctx, host, name, data); err != nil {
		return heldHost{}, err
	}
	unlock := func(ctx context.Context) error { return r.erase(ctx, host, []string{name}, ignoreProgress) }
	h, err := r.checkOtherLocks(ctx, host, name)
	if err != nil {
		return heldHost{}, fault.All(err, r.runDespiteContext(ctx, unlock))
	}
	h.unlock = unlock
	return h, nil
}

// checkOtherLocks removes the locks of processes that have ended, and fails with repository_locked if another holder
// may be alive. mine is the name of this run's own lock. It returns what is there of the host.
func (r remote) checkOtherLocks(ctx context.Context, host, mine string) (heldHost, error) {
	dir, done, err := r.tempDir()
	if err != nil {
		return heldHost{}, err
	}
	defer done()
	if err := r.fetchMarkers(ctx, dir, host); err != nil {
		return heldHost{}, err
	}
	dead, err := r.deadLocks(dir, host, mine)
	if err != nil {
		return heldHost{}, err
	}
	if len(dead) > 0 {
		if err := r.erase(ctx, host, dead, ignoreProgress); err != nil {
			return heldHost{}, err
		}
	}
	var h heldHost
	if h.trees, err = readTrees(dir, host); err == nil {
		h.machine, err = r.readMachine(dir, host)
	}
	return h, err
}

// readMachine returns whose backups those of the host are, in a directory into which fetchMarkers fetched.
func (r remote) readMachine(dir, host string) (string, error) {
	noted, err := backup.ReadMachine(filepath.Join(dir, host))
	if err != nil {
		return "", fault.New(fault.CommandFailed, "read whose backups these are: %w", err)
	}
	return noted, nil
}

func (r remote) noteMachine(ctx context.Context, host, machine string) error {
	return r.sendFile(ctx, host, backup.MachineFile, []byte(machine+"\n"))
}

// deadLocks returns the names of the locks whose holders have ended, in a directory into which the locks were fetched.
func (r remote) deadLocks(dir, host, mine string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, host))
	if err != nil {
		return nil, fault.New(fault.CommandFailed, "read the locks: %w", err)
	}
	var dead []string
	for _, entry := range entries {
		name := entry.Name()
		if name == mine || !strings.HasPrefix(name, lockPrefix+"-") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, host, name))
		if err != nil {
			return nil, fault.New(fault.CommandFailed, "read a lock: %w", err)
		}
		holder := parseHolder(data)
		if holder.mayBeAlive() {
			return nil, fault.New(fault.RepositoryLocked, "%v stores or removes backups of %s in %s", holder, host,
				r.options.Path).
				WithHint("wait until it has ended; if it has ended already, remove %s there",
					filepath.Join(r.options.dir, host, name))
		}
		dead = append(dead, name)
	}
	return dead, nil
}

func (r remote) openForErrors() (*os.File, error) { return nil, nil }

// writeMarker implements place. Before it sends the marker, it runs sync on the other host, if the ssh key allows that.
// The progress of sync cannot be seen from here, so only ssh's notice of a dead connection and callLimit end it.
func (r remote) writeMarker(ctx context.Context, _ *os.File, s backup.Stored, name string, report backup.Report) (
	string, error) {
	warning := ""
	argv := append(r.options.sshArgv(), "--", r.options.sshHost(), "sync")
	stopReports := backup.Repeat(func() { report(flushProgress(s)) })
	_, err := r.Run(ctx, command.Cmd{Argv: argv, Env: r.config.Environ(), Limit: callLimit})
	stopReports()
	if err != nil {
		if ctx.Err() != nil {
			return "", r.explain("sync the other host", err)
		}
		warning = "the other host was not told to write the backup to its disks: the key may not run sync there"
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fault.New(fault.Internal, "make a marker: %w", err)
	}
	return warning, r.sendFile(ctx, s.Host, name+markerSuffix, data)
}

func (r remote) remove(ctx context.Context, host string, names []string, report backup.Report) error {
	if len(names) == 0 {
		return nil
	}
	var markers []string
	for _, name := range names {
		markers = append(markers, name+markerSuffix)
	}
	if err := r.erase(ctx, host, markers, report); err != nil {
		return err
	}
	return r.erase(ctx, host, names, report)
}
