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

// Present mounts the repository and presents the snapshot's directory in the mount. If a mount cannot show the snapshot
// as it was, and the option scratch is given, it restores the snapshot into scratch instead.
//
// The mount holds a lock that keeps only a prune waiting: without it, a prune on another host could remove the data
// while it is read. If restic is killed, its lock is stale at once on this host, and Settle removes it.
func (b *Backend) Present(ctx context.Context, c backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
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
	used, err := t.presentMount(ctx, s, report, use)
	if used || !errors.Is(err, fault.Unsupported) || t.options.Scratch == "" {
		return err
	}
	return t.presentRestored(ctx, s, report, use)
}

// presentMount presents the snapshot in a mount of the repository. used says whether use was called.
func (t *tool) presentMount(ctx context.Context, s snapshot, report backup.Report,
	use func(context.Context, backup.Presented) error) (used bool, err error) {
	m, err := t.mount(ctx, report)
	if err != nil {
		return false, err
	}
	defer func() { err = firstOf(err, m.close()) }()
	dir := filepath.Join(m.point, "id", s.ID)
	if err := t.version.checkMounted(m.ctx, dir, report); err != nil {
		return false, err
	}
	p, err := presented(s, dir)
	if err != nil {
		return false, err
	}
	p.Direct = true
	return true, firstOf(use(m.ctx, p), m.endedEarly())
}

// firstOf returns err, or after if err is nil.
func firstOf(err, after error) error {
	if err != nil {
		return err
	}
	return after
}

// presented returns the directories of the snapshot's roots below dir.
func presented(s snapshot, dir string) (backup.Presented, error) {
	roots, err := backup.RootsBeneath(dir, s.Paths)
	return backup.Presented{Roots: roots, NoDevices: true}, err // restic's file system shows no device numbers
}

// resticMount is a running `restic mount`.
type resticMount struct {
	ctx    context.Context // ends when restic ends
	stop   context.CancelCauseFunc
	point  string        // the mount point
	ended  chan struct{} // closed when restic has ended
	failed error         // why restic ended; valid when ended is closed
}

// errMountDone is the cause with which the context of a mount ends when the mount is no longer needed.
var errMountDone = errors.New("the mount is not needed any more")

// mount starts `restic mount`, and returns when the repository is mounted.
func (t *tool) mount(ctx context.Context, report backup.Report) (*resticMount, error) {
	m := &resticMount{point: filepath.Join(t.config.Scratch, "restic"), ended: make(chan struct{})}
	if err := os.Mkdir(m.point, 0o700); err != nil {
		return nil, fault.New(fault.MountFailed, "make a mount point: %w", err)
	}
	m.ctx, m.stop = context.WithCancelCause(ctx)
	cmd := t.cmd("mount", "--path-template", "id/%I", m.point)
	cmd.Limit, cmd.BusyCheck = 0, 0 // whoever reads the mount has a limit of its own, and reports progress
	go func() {
		defer close(m.ended)
		_, err := t.Stream(m.ctx, cmd, func(string) {})
		m.failed = t.explain("mount the repository", err)
		m.stop(fault.New(fault.BackendFailed, "restic has ended, and the mount with it"))
	}()
	if err := m.waitMounted(report); err != nil {
		return nil, fault.All(err, m.close())
	}
	return m, nil
}

// While a mount is waited for, the mount table is read every mountPollInterval, and progress is reported every
// reportInterval.
const (
	mountPollInterval = 20 * time.Millisecond
	reportInterval    = 5 * time.Second
)

// waitMounted waits until the mount is in the mount table. From then on the kernel makes readers wait until restic
// answers.
func (m *resticMount) waitMounted(report backup.Report) error {
	ticker, reports := time.NewTicker(mountPollInterval), time.NewTicker(reportInterval)
	defer ticker.Stop()
	defer reports.Stop()
	timeout := time.After(callLimit)
	for {
		select {
		case <-m.ended:
			if m.failed != nil {
				return m.failed
			}
			return fault.New(fault.MountFailed, "mount the repository: restic ended at once")
		case <-timeout:
			return fault.New(fault.Timeout, "the repository was not mounted within %v", callLimit)
		case <-reports.C:
			report(backup.Progress{Label: "opening the repository"})
		case <-ticker.C:
			if isMounted, err := m.isMounted(); err != nil || isMounted {
				return err
			}
		}
	}
}

func (m *resticMount) isMounted() (bool, error) {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return false, err
	}
	point, err := filepath.EvalSymlinks(filepath.Dir(m.point))
	if err != nil {
		return false, err
	}
	_, found := filesystem.At(mounts, filepath.Join(point, filepath.Base(m.point)))
	return found, nil
}

// endedEarly returns an error if restic has ended before it was told to. It looks at the context and not at the channel
// ended, because the context ends first: in between, a reader may already have seen the end of the data, and would take
// that for the whole backup.
func (m *resticMount) endedEarly() error {
	if m.ctx.Err() == nil {
		return nil
	}
	return context.Cause(m.ctx)
}

// unmountLimit is how long close waits, after the unmount, until restic has removed its lock and ended.
const unmountLimit = 10 * time.Second

// close unmounts the repository and ends restic.
func (m *resticMount) close() error {
	// restic ends by itself after an unmount. If it does not, it is told to end. If the unmount failed, the mount is then
	// detached: no process serves it any more, no volume is behind it, and it goes as soon as its last reader has.
	if filesystem.Unmount(m.point) == nil {
		select {
		case <-m.ended:
		case <-time.After(unmountLimit):
		}
	}
	m.stop(errMountDone)
	<-m.ended
	if isMounted, err := m.isMounted(); err == nil && isMounted {
		_ = unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err := os.Remove(m.point); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.MountFailed, "remove the mount point: %w", err)
	}
	return nil
}

// checkMounted makes sure that the mount shows the snapshot as it was stored. Before restic 0.15 every hard link has an
// inode of its own in the mount, so that a restore would make separate files of them. Fault: unsupported.
func (v version) checkMounted(ctx context.Context, dir string, report backup.Report) error {
	_, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(filepath.Base(dir))
	}
	if err != nil {
		return fault.New(fault.BackendFailed, "the snapshot is not in the mount: %w", err)
	}
	if v.atLeast(withLinks) {
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
			return fault.New(fault.Unsupported, "restic %v mounts hard links as separate files, and the backup has some: %s",
				v, path[len(dir):]).
				WithHint("install restic %v or later, or name a directory with room for the whole backup as scratch", withLinks)
		}
		return nil
	})
	return err
}

// presentRestored restores the snapshot into scratch, presents it there, and removes it.
func (t *tool) presentRestored(ctx context.Context, s snapshot, report backup.Report,
	use func(context.Context, backup.Presented) error) (err error) {
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
	if t.version.atLeast(withLinks) {
		args = append(args, "--sparse")
	}
	if t.version.atLeast(withRetry) {
		args = append([]string{"--json"}, args...)
	}
	cmd := t.cmd(args...)
	cmd.Limit = 0 // the run that called the backend has a limit of its own
	progress := backup.Progress{Label: "laying the backup out in " + t.options.Scratch}
	_, err := t.Stream(ctx, cmd, func(text string) {
		if l, ok := parseLine(text); ok && l.Type == "status" {
			progress.Done, progress.Total, progress.Files = l.BytesRestored, l.TotalBytes, l.FilesRestored
		}
		report(progress)
	})
	var failed *command.Error
	if errors.As(err, &failed) && faultCode(0, failed.Stderr) == fault.RepositoryFull {
		return fault.New(fault.NoSpace, "there is not enough room in %s for the backup", t.options.Scratch).
			WithHint("name a directory with more room as scratch")
	}
	return t.explain("restore the backup into "+t.options.Scratch, err)
}
