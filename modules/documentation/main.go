// Command documentation writes the documentation of the modules from what they say about themselves.
//
//	go run ./modules/documentation modules DIRECTORY       the module files for ansible-doc, which hold no code
//	go run ./modules/documentation reference DIRECTORY     the pages in docs
//	go run ./modules/documentation man DIRECTORY VERSION   the manual pages
//	go run ./modules/documentation completion DIRECTORY    the completion of arguments for bash
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
		files = moduleFiles()
	case len(os.Args) == 3 && os.Args[1] == "reference":
		files = referencePages()
	case len(os.Args) == 4 && os.Args[1] == "man":
		files = manPages(os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "completion":
		files = map[string]string{"rewind": completionScript(documents())}
	default:
		fmt.Fprintln(os.Stderr, "usage: documentation modules DIRECTORY | reference DIRECTORY | man DIRECTORY VERSION |",
			"completion DIRECTORY")
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

// fileForEach returns a file for each program, by file name. write returns the content.
func fileForEach(suffix string, write func(ansible.Document) string) map[string]string {
	files := map[string]string{}
	for _, d := range documents() {
		files[d.Name+suffix] = write(d)
	}
	return files
}

// moduleFiles returns the files of plugins/modules.
func moduleFiles() map[string]string { return fileForEach(".py", ansibleModule) }

// referencePages returns the pages of docs/modules.
func referencePages() map[string]string { return fileForEach(".md", markdownPage) }

// manPages returns the manual pages.
func manPages(version string) map[string]string {
	return fileForEach(".8", func(d ansible.Document) string { return manPage(d, version) })
}
