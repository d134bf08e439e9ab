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

// remote is a directory of another host. All that is done there is done by rsync: what is small is staged in Scratch
// and sent, or fetched there and read.
type remote struct{ *tool }

// stage returns a new directory in Scratch and what removes it.
func (r remote) stage() (string, func(), error) {
	dir, err := os.MkdirTemp(r.config.Scratch, "stage-")
	if err != nil {
		return "", nil, fault.New(fault.CommandFailed, "stage what is sent: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// fetch brings the markers, the locks and the names of all trees.
func (r remote) fetch(ctx context.Context, into, host string) error {
	one := "*"
	if host != "" {
		one = host
	}
	// lost+found is no host, and only root may enter it.
	cmd := r.cmd("-r", "--exclude=/lost+found/",
		"--include=/"+one+"/", "--include=/"+one+"/*"+markerEnd, "--include=/"+one+"/*/", "--exclude=*",
		r.options.at()+"/", into+"/")
	for again := range fetches {
		_, err := r.Stream(ctx, cmd, func(string) {})
		var failed *command.Error
		if gone := errors.As(err, &failed) && failed.Code == exitVanished; !gone || again == fetches-1 {
			return r.explain("read the backups in "+r.options.Path, err)
		}
	}
	return nil
}

// fetches is how often what is there is read when some of it goes meanwhile: locks and markers of other hosts do.
const fetches = 5

func (r remote) look(ctx context.Context, host string) ([]tree, error) {
	dir, done, err := r.stage()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := r.fetch(ctx, dir, host); err != nil {
		return nil, err
	}
	return readTrees(dir, host)
}

// send puts one small file there; "" as host is the place itself.
func (r remote) send(ctx context.Context, host, name string, data []byte) error {
	dir, done, err := r.stage()
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
	// What comes before "/./" is not part of the name there.
	return r.call(ctx, "write to "+r.options.Path, "-pR", dir+"/./"+filepath.Join(host, name), r.options.at()+"/")
}

// erase removes what is named below host: rsync makes it equal to an empty directory, as far as the names go.
func (r remote) erase(ctx context.Context, host string, names []string, report backup.Report) error {
	dir, done, err := r.stage()
	if err != nil {
		return err
	}
	defer done()
	// The work is done over there, where no processor of ours tells of it: each name that goes is a sign of life.
	args := []string{"-r", "--delete", "--info=del", "--outbuf=L"}
	for _, name := range names {
		args = append(args, "--include=/"+name, "--include=/"+name+"/**")
	}
	args = append(args, "--exclude=*", dir+"/", r.options.at(host)+"/")
	cmd := r.cmd(args...)
	cmd.Limit = 0 // a tree of millions of files takes its time
	_, err = r.Stream(ctx, cmd, func(string) { report(backup.Progress{Label: "removing " + names[0]}) })
	return r.explain("remove from "+r.options.Path, err)
}

// lock writes a lock of its own and then looks for those of others: of two that come at once at least one sees the
// other, and neither has to be first.
func (r remote) lock(ctx context.Context, host string) (func(context.Context) error, []tree, error) {
	if _, err := r.look(ctx, host); err != nil {
		return nil, nil, err // rsync would make the place if it were not there
	}
	mine, err := ourselves()
	if err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(mine)
	if err != nil {
		return nil, nil, fault.New(fault.Internal, "make a lock: %w", err)
	}
	name := lockStart + "-" + newName() + markerEnd
	if err := r.send(ctx, host, name, data); err != nil {
		return nil, nil, err
	}
	unlock := func(ctx context.Context) error { return r.erase(ctx, host, []string{name}, quiet) }
	trees, err := r.alone(ctx, host, name)
	if err != nil {
		return nil, nil, fault.All(err, r.afterwards(ctx, unlock))
	}
	return unlock, trees, nil
}

// alone removes the locks of the dead, and fails with repository_locked if another is alive. It returns the trees.
func (r remote) alone(ctx context.Context, host, mine string) ([]tree, error) {
	dir, done, err := r.stage()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := r.fetch(ctx, dir, host); err != nil {
		return nil, err
	}
	dead, err := r.deadLocks(dir, host, mine)
	if err != nil {
		return nil, err
	}
	if len(dead) > 0 {
		if err := r.erase(ctx, host, dead, quiet); err != nil {
			return nil, err
		}
	}
	return readTrees(dir, host)
}

func (r remote) deadLocks(dir, host, mine string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, host))
	if err != nil {
		return nil, fault.New(fault.CommandFailed, "read the locks: %w", err)
	}
	var dead []string
	for _, entry := range entries {
		name := entry.Name()
		if name == mine || !strings.HasPrefix(name, lockStart+"-") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, host, name))
		if err != nil {
			return nil, fault.New(fault.CommandFailed, "read a lock: %w", err)
		}
		holder := parseHolder(data)
		if holder.alive() {
			return nil, fault.New(fault.RepositoryLocked, "%v stores or removes backups of %s in %s", holder, host, r.options.Path).
				WithHint("wait until it has ended; if it is no more, remove %s there", filepath.Join(r.options.dir, host, name))
		}
		dead = append(dead, name)
	}
	return dead, nil
}

func (r remote) listen() (*os.File, error) { return nil, nil }

// mark has the other host write everything to its disks, where the key allows that, before the marker goes there. How
// it gets on is not to be seen here: ssh notices when that host is gone, and the limit bounds it.
func (r remote) mark(ctx context.Context, _ *os.File, s backup.Stored, name string, report backup.Report) (
	string, error) {
	warning := ""
	argv := append(r.options.ssh(), "--", r.options.sshHost(), "sync")
	working := backup.Repeat(func() { report(writingOut(s)) })
	_, err := r.Run(ctx, command.Cmd{Argv: argv, Env: r.config.Environ(), Limit: limit})
	working()
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
	return warning, r.send(ctx, s.Host, name+markerEnd, data)
}

func (r remote) remove(ctx context.Context, host string, names []string, report backup.Report) error {
	if len(names) == 0 {
		return nil
	}
	var markers []string
	for _, name := range names {
		markers = append(markers, name+markerEnd)
	}
	if err := r.erase(ctx, host, markers, report); err != nil {
		return err
	}
	return r.erase(ctx, host, names, report)
}
