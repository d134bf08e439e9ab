// Command lvm is the programs lvm_snapshot, lvm_merge and lvm_snapshot_info in one executable file. The name by which
// the file is called says which of them runs.
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
