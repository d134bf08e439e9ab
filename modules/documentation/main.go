// Command documentation writes what people read of the modules, from what the modules say of themselves.
//
//	go run ./modules/documentation modules DIRECTORY       for ansible-doc: a file for each, whose action plugin runs it
//	go run ./modules/documentation reference DIRECTORY     their pages in docs
//	go run ./modules/documentation man DIRECTORY VERSION   their manual pages
//	go run ./modules/documentation completion DIRECTORY    the completion of their words for bash
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
	var files map[string]string
	switch {
	case len(os.Args) == 3 && os.Args[1] == "modules":
		files = modules()
	case len(os.Args) == 3 && os.Args[1] == "reference":
		files = reference()
	case len(os.Args) == 4 && os.Args[1] == "man":
		files = manuals(os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "completion":
		files = map[string]string{"rewind": completion(documents())}
	default:
		fmt.Fprintln(os.Stderr, "usage: documentation modules DIRECTORY | reference DIRECTORY | man DIRECTORY VERSION | completion DIRECTORY")
		os.Exit(2)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(os.Args[2], name), []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func programs() []ansible.Program {
	return []ansible.Program{snapshot.Module(), merge.Module(), lvminfo.Module(), backup.Module(), snapinfo.Module()}
}

func documents() (all []ansible.Document) {
	for _, p := range programs() {
		all = append(all, p.Document())
	}
	return all
}

// written returns a file for each program, by its name: what write says of it.
func written(suffix string, write func(ansible.Document) string) map[string]string {
	files := map[string]string{}
	for _, d := range documents() {
		files[d.Name+suffix] = write(d)
	}
	return files
}

// modules returns the files of plugins/modules.
func modules() map[string]string { return written(".py", stub) }

// reference returns the pages of docs/modules.
func reference() map[string]string { return written(".md", page) }

// manuals returns the manual pages.
func manuals(version string) map[string]string {
	return written(".8", func(d ansible.Document) string { return man(d, version) })
}
