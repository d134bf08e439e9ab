// Command documentation writes what people read of the modules, from what the modules say of themselves: for each a
// file in plugins/modules, which ansible-doc shows. The action plugin of the same name runs the program.
//
//	go run ./modules/documentation DIRECTORY
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/ansible"
	lvminfo "go.pcc.com/rewind/modules/lvm/info"
	"go.pcc.com/rewind/modules/lvm/merge"
	"go.pcc.com/rewind/modules/lvm/snapshot"
	"go.pcc.com/rewind/modules/snap/backup"
	snapinfo "go.pcc.com/rewind/modules/snap/info"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: documentation DIRECTORY")
		os.Exit(2)
	}
	for name, text := range modules() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// modules returns the files of plugins/modules by their names.
func modules() map[string]string {
	files := map[string]string{}
	for _, p := range []ansible.Program{
		snapshot.Module(), merge.Module(), lvminfo.Module(), backup.Module(), snapinfo.Module(),
	} {
		d := p.Document()
		files[d.Name+".py"] = stub(d)
	}
	return files
}
