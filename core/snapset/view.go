package snapset

import (
	"sync"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/postgres"
)

// View is what LVM and the kernel said at one moment, and how to ask them for more. Plans are made from it.
type View struct {
	Report *lvm.Report
	Mounts []filesystem.Mount
	Sysfs  string // where sysfs is mounted: /sys
	// Journal is the directory that holds the journal.
	Journal string
	// Device returns the number of a block device by its path, following symbolic links.
	Device func(path string) (filesystem.Dev, error)
	// Behind returns the device that an automount point would mount; false if it is not known. nil: it is known for none.
	Behind func(point string) (filesystem.Dev, bool)
	// Needs reads from a device which other devices the file system on it needs. nil: needs are not looked for.
	Needs func(device string) (filesystem.Needs, error)
	// TakeParts has Resolve add to the targets what a named file system needs, such as its log.
	TakeParts bool
	// LoopFile returns the device that a loop device's file is on, and, if that file is itself a device, which one. nil:
	// loop devices are not looked at.
	LoopFile func(node string) (backing, fileDevice filesystem.Dev, ok bool)
	// Clusters returns the PostgreSQL clusters that run. nil: they are not looked for.
	Clusters func() ([]postgres.Cluster, error)
}

// NewView returns a View of the real system.
func NewView(report *lvm.Report, mounts []filesystem.Mount) *View {
	return &View{
		Report: report, Mounts: mounts, Sysfs: "/sys", Journal: journey.StateDir,
		Device: filesystem.BlockDevice, Behind: behindAutomount, Needs: filesystem.NeedsOf, LoopFile: filesystem.LoopFile,
		Clusters: sync.OnceValues(postgres.Running),
	}
}
