// Command lvm is lvm_snapshot, lvm_merge and lvm_snapshot_info in one file, which goes by these names.
package main

import (
	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/modules/lvm/info"
	"go.pcc.com/rewind/modules/lvm/merge"
	"go.pcc.com/rewind/modules/lvm/snapshot"
)

func main() {
	ansible.Main(snapshot.Module(), merge.Module(), info.Module())
}
