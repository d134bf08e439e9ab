// Package backends lists the backends that are part of the programs.
package backends

import (
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/plugins/backends/mirror"
	"go.pcc.com/rewind/plugins/backends/restic"
	"go.pcc.com/rewind/plugins/backends/rsync"
)

// BuiltIn are the backends that need no program file of their own, by the name that the user gives.
var BuiltIn = access.Backends{"mirror": mirror.New, "restic": restic.New, "rsync": rsync.New}
