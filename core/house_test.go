// Package core_test holds the rules of the house: who may import whom, who may start programs, and what the
// modules that every server receives may link.
package core_test

import (
	"go/parser"
	"go/token"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "go.pcc.com/rewind/"

// order lists the packages of core; each may import only those before it.
var order = []string{
	"fault", "failpoint", "proc", "command", "durable", "lock", "trust", "journal", "ansible", "tree", "lvm", "filesystem",
	"service", "journey", "postgres", "snapset", "rollback", "backup", "restore", "simulation",
}

// source is one Go file that is built into a program.
type source struct {
	dir     string // below the repository's root: core/lvm/lvmtest
	file    string
	imports []string
}

func TestCoreImportsOnlyUpwards(t *testing.T) {
	for _, s := range sources(t, "core") {
		own := position(t, s, s.dir)
		for _, imported := range s.imports {
			if !strings.HasPrefix(imported, module) {
				continue
			}
			dir := strings.TrimPrefix(imported, module)
			if !strings.HasPrefix(dir, "core/") {
				t.Errorf("%s imports %s: core serves the programs, it does not know them", s.file, imported)
				continue
			}
			if position(t, s, dir) > own {
				t.Errorf("%s imports %s, which is below it in the order", s.file, imported)
			}
		}
	}
}

func TestModulesImportOnlyCoreAndBackends(t *testing.T) {
	for _, s := range sources(t, "modules") {
		for _, imported := range s.imports {
			own := strings.HasPrefix(imported, module+"core/") || imported == module+"plugins/backends" ||
				path.Base(s.file) == "main.go" && strings.HasPrefix(imported, module+"modules/")
			if strings.HasPrefix(imported, module) && !own {
				t.Errorf("%s imports %s: a module is one page over core, and a main.go is over modules", s.file, imported)
			}
		}
	}
}

func TestBackendsImportOnlyCore(t *testing.T) {
	for _, s := range sources(t, "plugins") {
		for _, imported := range s.imports {
			own := strings.HasPrefix(imported, module+"core/") || s.dir == "plugins/backends"
			if strings.HasPrefix(imported, module) && !own {
				t.Errorf("%s imports %s: a backend stands on core alone", s.file, imported)
			}
		}
	}
}

// startsBackends is the one package beside core/command that may import os/exec: hashicorp/go-plugin hands a backend's
// process to it as an *exec.Cmd.
const startsBackends = "core/backup/plugin"

// Every program is started through core/command, where limits, environment and process groups are right.
func TestOnlyCommandStartsPrograms(t *testing.T) {
	for _, s := range slices.Concat(sources(t, "core"), sources(t, "modules"), sources(t, "plugins")) {
		if s.dir != "core/command" && s.dir != startsBackends && slices.Contains(s.imports, "os/exec") {
			t.Errorf("%s imports os/exec: use core/command", s.file)
		}
	}
}

// go-plugin with gRPC is 10 MB, which lvm_snapshot and lvm_merge would carry to every server at every task.
func TestVolumeModulesLinkNoPluginFramework(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "../modules/lvm").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"modules/lvm/merge") {
		t.Fatal("go list does not name modules/lvm/merge")
	}
	for _, dep := range deps {
		if strings.HasPrefix(dep, "github.com/hashicorp/go-plugin") || strings.HasPrefix(dep, "google.golang.org/grpc") {
			t.Errorf("modules/lvm links %s", dep)
		}
	}
}

// position is where a package, or the one it lies in, stands in the order.
func position(t *testing.T, s source, dir string) int {
	t.Helper()
	name := strings.Split(strings.TrimPrefix(dir, "core/"), "/")[0]
	i := slices.Index(order, name)
	if i < 0 {
		t.Fatalf("%s: core/%s is not in the order of packages", s.file, name)
	}
	return i
}

// sources reads the imports of every Go file below top, a folder beside core, tests left out.
func sources(t *testing.T, top string) []source {
	t.Helper()
	var found []source
	for _, file := range goFiles(t, top) {
		if strings.HasSuffix(file, "_test.go") || path.Dir(file) == "../core" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		s := source{dir: strings.TrimPrefix(path.Dir(file), "../"), file: strings.TrimPrefix(file, "../")}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			s.imports = append(s.imports, imported)
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		t.Fatalf("no Go file below %s", top)
	}
	return found
}
