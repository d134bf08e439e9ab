// Command snap is snap_backup and snap_backup_info in one file, which goes by these names.
package main

import (
	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/modules/snap/backup"
	"go.pcc.com/rewind/modules/snap/info"
)

func main() {
	ansible.Main(backup.Module(), info.Module())
}
