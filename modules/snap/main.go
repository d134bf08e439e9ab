// Command snap is the programs snap_backup and snap_backup_info in one executable file. The name by which the file is
// called says which of them runs.
package main

import (
	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/modules/snap/backup"
	"go.pcc.com/rewind/modules/snap/info"
)

func main() {
	ansible.Main(backup.Module(), info.Module())
}
