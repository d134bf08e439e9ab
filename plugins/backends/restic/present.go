package restic

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// Present mounts the repository and shows the snapshot's directory. Where a mount cannot show it whole, and scratch
// was named, the snapshot is restored there.
//
// The mount holds a lock of the kind that only a prune waits for: without it, another host's prune could take the data
// away while it is read. A lock that a SIGKILL leaves behind is stale at once on this host, and Settle removes it.
func (b *Backend) Present(ctx context.Context, c backup.Config, id string, report backup.Report, use func(context.Context, backup.Presented) error) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	s, ok := b.remembered(id)
	if !ok {
		if s, err = t.find(ctx, id); err != nil {
			return err
		}
	}
	used, err := t.fromMount(ctx, s, report, use)
	if used || !errors.Is(err, fault.Unsupported) || t.options.Scratch == "" {
		return err
	}
	return t.layOut(ctx, s, report, use)
}

// fromMount presents the snapshot in a mount of the repository, and says whether it came to that.
func (t *tool) fromMount(ctx context.Context, s snapshot, report backup.Report, use func(context.Context, backup.Presented) error) (used bool, err error) {
	m, err := t.mount(ctx, report)
	if err != nil {
		return false, err
	}
	defer func() { err = firstOf(err, m.close()) }()
	dir := filepath.Join(m.point, "id", s.ID)
	if err := t.exact(m.ctx, dir, report); err != nil {
		return false, err
	}
	p, err := presented(s, dir)
	if err != nil {
		return false, err
	}
	p.Direct = true
	return true, firstOf(use(m.ctx, p), m.died())
}

// firstOf returns err as it is, if it is one, else after.
func firstOf(err, after error) error {
	if err != nil {
		return err
	}
	return after
}

func presented(s snapshot, dir string) (backup.Presented, error) {
	roots, err := backup.RootsBeneath(dir, s.Paths)
	return backup.Presented{Roots: roots, NoDevices: true}, err // restic's file system has none
}

// mounted is a running `restic mount`.
type mounted struct {
	ctx    context.Context // ends with the mount
	stop   context.CancelCauseFunc
	point  string
	ended  chan struct{}
	failed error // why restic ended; to be read when ended is closed
}

// errSettled is the cause with which a mount that has served its purpose is stopped.
var errSettled = errors.New("the mount is not needed any more")

// mount starts restic and returns when the mount is there.
func (t *tool) mount(ctx context.Context, report backup.Report) (*mounted, error) {
	m := &mounted{point: filepath.Join(t.config.Scratch, "restic"), ended: make(chan struct{})}
	if err := os.Mkdir(m.point, 0o700); err != nil {
		return nil, fault.New(fault.MountFailed, "make a mount point: %w", err)
	}
	m.ctx, m.stop = context.WithCancelCause(ctx)
	cmd := t.cmd("mount", "--path-template", "id/%I", m.point)
	cmd.Limit, cmd.Pulse = 0, 0 // what uses the mount bounds it, and reports
	go func() {
		defer close(m.ended)
		_, err := t.Stream(m.ctx, cmd, func(string) {})
		m.failed = t.explain("mount the repository", err)
		m.stop(fault.New(fault.BackendFailed, "restic has ended, and the mount with it"))
	}()
	if err := m.wait(report); err != nil {
		return nil, fault.All(err, m.close())
	}
	return m, nil
}

// look is how often the mount table is read while a mount is waited for; beat, how often that is reported.
const (
	look = 20 * time.Millisecond
	beat = 5 * time.Second
)

// wait returns when the mount is in the mount table. From then on the kernel lets a reader wait until restic answers.
func (m *mounted) wait(report backup.Report) error {
	ticker, beats := time.NewTicker(look), time.NewTicker(beat)
	defer ticker.Stop()
	defer beats.Stop()
	late := time.After(limit)
	for {
		select {
		case <-m.ended:
			if m.failed != nil {
				return m.failed
			}
			return fault.New(fault.MountFailed, "mount the repository: restic ended at once")
		case <-late:
			return fault.New(fault.Timeout, "the repository was not mounted within %v", limit)
		case <-beats.C:
			report(backup.Progress{Label: "opening the repository"})
		case <-ticker.C:
			if there, err := m.there(); err != nil || there {
				return err
			}
		}
	}
}

func (m *mounted) there() (bool, error) {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return false, err
	}
	point, err := filepath.EvalSymlinks(filepath.Dir(m.point))
	if err != nil {
		return false, err
	}
	_, there := filesystem.At(mounts, filepath.Join(point, filepath.Base(m.point)))
	return there, nil
}

// died says whether restic has ended although nobody told it to. Its word is the context, which is done before ended is
// closed: a reader that saw the one and not yet the other would take a backup that broke off for a whole one.
func (m *mounted) died() error {
	if m.ctx.Err() == nil {
		return nil
	}
	return context.Cause(m.ctx)
}

// unmountLimit bounds the wait for restic to end once nothing is mounted any more; it removes its lock meanwhile.
const unmountLimit = 10 * time.Second

// close unmounts and ends restic, whatever happened.
func (m *mounted) close() error {
	// restic ends by itself when it is unmounted. Where that fails, it is told to; and what is left then is a mount
	// that nobody serves and that no volume is behind: it may go as soon as its last reader has.
	if filesystem.Unmount(m.point) == nil {
		select {
		case <-m.ended:
		case <-time.After(unmountLimit):
		}
	}
	m.stop(errSettled)
	<-m.ended
	if there, err := m.there(); err == nil && there {
		_ = unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err := os.Remove(m.point); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.MountFailed, "remove the mount point: %w", err)
	}
	return nil
}

// exact makes sure that what is mounted is what was stored. Before 0.15 each name of a hard link has an inode of its
// own in the mount, and nobody could tell that they are one file.
func (t *tool) exact(ctx context.Context, dir string, report backup.Report) error {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return absent(filepath.Base(dir))
	}
	if err != nil {
		return fault.New(fault.BackendFailed, "the snapshot is not in the mount: %w", err)
	}
	if t.version.has(withLinks) {
		return nil
	}
	var looked int64
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fault.New(fault.BackendFailed, "read the mounted backup: %w", err)
		}
		if looked++; looked%1000 == 0 {
			report(backup.Progress{Label: "looking for hard links", Files: looked})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return fault.New(fault.BackendFailed, "read the mounted backup: %w", err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
			return fault.New(fault.Unsupported, "restic %v mounts hard links as separate files, and the backup has some: %s", t.version, path[len(dir):]).
				WithHint("install restic %v or later, or name a directory with room for the whole backup as scratch", withLinks)
		}
		return nil
	})
	return err
}

// layOut restores the snapshot into scratch, where it is read and then removed.
func (t *tool) layOut(ctx context.Context, s snapshot, report backup.Report, use func(context.Context, backup.Presented) error) (err error) {
	room, err := backup.NewRoom(t.options.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, room.Close()) }()
	if err := t.restore(ctx, s, room.Path, report); err != nil {
		return err
	}
	p, err := presented(s, room.Path)
	if err != nil {
		return err
	}
	return use(ctx, p)
}

func (t *tool) restore(ctx context.Context, s snapshot, dir string, report backup.Report) error {
	args := []string{"restore", s.ID, "--target", dir}
	if t.version.has(withLinks) {
		args = append(args, "--sparse")
	}
	if t.version.has(withRetry) {
		args = append([]string{"--json"}, args...)
	}
	cmd := t.cmd(args...)
	cmd.Limit = 0 // the run that asked for the backup bounds it
	progress := backup.Progress{Label: "laying the backup out in " + t.options.Scratch}
	_, err := t.Stream(ctx, cmd, func(text string) {
		if l, ok := parseLine(text); ok && l.Type == "status" {
			progress.Done, progress.Total, progress.Files = l.BytesRestored, l.TotalBytes, l.FilesRestored
		}
		report(progress)
	})
	var failed *command.Error
	if errors.As(err, &failed) && meaning(0, failed.Stderr) == fault.RepositoryFull {
		return fault.New(fault.NoSpace, "there is not enough room in %s for the backup", t.options.Scratch).
			WithHint("name a directory with more room as scratch")
	}
	return t.explain("restore the backup into "+t.options.Scratch, err)
}
