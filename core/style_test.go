package core_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The measures of the style that CONTRIBUTING.md asks for.
const (
	longestLine     = 120 // columns; a tab is one
	longestFunction = 60  // lines
	mostBranches    = 15  // cyclomatic complexity
	mostMethods     = 25  // of a type
)

// riddles are names that a newcomer has to decipher.
var riddles = []string{"there", "past", "mourn", "ear", "kin", "unlatch", "condemned", "ahead", "sight"}

// vague are names that say enough for a local variable or a parameter, and too little for what lives longer.
var vague = []string{"rest", "now", "walk", "work"}

// everywhere are the folders that hold all Go files of the repository.
var everywhere = []string{"core", "modules", "plugins", "molecule"}

// goFiles are the Go files below folders beside core, by their path from core.
func goFiles(t *testing.T, tops ...string) []string {
	t.Helper()
	var files []string
	for _, top := range tops {
		err := filepath.WalkDir(filepath.Join("..", top), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".go" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestLinesAreShort(t *testing.T) {
	for _, file := range goFiles(t, everywhere...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			tag := strings.Contains(line, "`mapstructure:") // which cannot be split
			if n := utf8.RuneCountInString(line); n > longestLine && !tag {
				t.Errorf("%s:%d has %d columns", file, i+1, n)
			}
		}
	}
}

func TestFunctionsAreShortAndPlain(t *testing.T) {
	eachDecl(t, func(at token.Position, decl ast.Decl, set *token.FileSet) {
		f, ok := decl.(*ast.FuncDecl)
		test := strings.HasSuffix(at.Filename, "_test.go") || strings.HasSuffix(filepath.Dir(at.Filename), "test")
		if !ok || f.Body == nil || test {
			return
		}
		if n := set.Position(f.End()).Line - at.Line + 1; n > longestFunction {
			t.Errorf("%s: %s has %d lines", at, f.Name.Name, n)
		}
		if n := branches(f.Body); n > mostBranches {
			t.Errorf("%s: %s has %d branches", at, f.Name.Name, n)
		}
	})
}

// large are the types that may have more methods. LVM and Systemd have one for each thing that they are asked for. The
// others are fakes, or wait to be divided.
var large = []string{
	"lvm.LVM", "service.Systemd", "lvmtest.Fake", "lvmtest.volume", "servicetest.Fake", "simulation.machine",
	"tree.job",
}

func TestTypesHaveFewMethods(t *testing.T) {
	methods := map[string]int{}
	eachDecl(t, func(at token.Position, decl ast.Decl, _ *token.FileSet) {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv == nil || strings.HasSuffix(at.Filename, "_test.go") {
			return
		}
		receiver := f.Recv.List[0].Type
		if pointer, ok := receiver.(*ast.StarExpr); ok {
			receiver = pointer.X
		}
		if name, ok := receiver.(*ast.Ident); ok {
			methods[filepath.Base(filepath.Dir(at.Filename))+"."+name.Name]++
		}
	})
	for name, n := range methods {
		if n > mostMethods && !slices.Contains(large, name) {
			t.Errorf("%s has %d methods", name, n)
		}
	}
	for _, name := range large {
		if methods[name] <= mostMethods {
			t.Errorf("%s has %d methods by now, and is no exception any more", name, methods[name])
		}
	}
}

// branches is the cyclomatic complexity of a body.
func branches(body ast.Node) int {
	n := 1
	ast.Inspect(body, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil { // not default
				n++
			}
		case *ast.CommClause:
			if node.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// obvious are the methods of the language's own interfaces.
var obvious = []string{"Error", "Unwrap", "String"}

func TestExportedNamesAreDocumented(t *testing.T) {
	eachDecl(t, func(at token.Position, decl ast.Decl, _ *token.FileSet) {
		if strings.HasSuffix(at.Filename, "_test.go") {
			return
		}
		for name, doc := range documented(decl) {
			if ast.IsExported(name) && !doc && !slices.Contains(obvious, name) {
				t.Errorf("%s: %s has no comment that says what it is", at, name)
			}
		}
	})
}

// documented tells of each name that a declaration has whether a comment is above it, or above its group.
func documented(decl ast.Decl) map[string]bool {
	names := map[string]bool{}
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || ast.IsExported(receiver(d)) {
			names[d.Name.Name] = d.Doc != nil
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				names[s.Name.Name] = d.Doc != nil || s.Doc != nil || s.Comment != nil
			case *ast.ValueSpec:
				for _, name := range s.Names {
					names[name.Name] = d.Doc != nil || s.Doc != nil || s.Comment != nil
				}
			}
		}
	}
	return names
}

func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}

func TestNamesAreNoRiddles(t *testing.T) {
	set := token.NewFileSet()
	for _, file := range goFiles(t, everywhere...) {
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		declared(parsed, func(name *ast.Ident, local bool) {
			if slices.Contains(riddles, name.Name) || !local && slices.Contains(vague, name.Name) {
				t.Errorf("%s: %s", set.Position(name.Pos()), name.Name)
			}
		})
	}
}

// declared calls f for every name that a file declares, and says whether it is a parameter or a local variable.
func declared(file *ast.File, f func(name *ast.Ident, local bool)) {
	fields := func(list *ast.FieldList, local bool) {
		if list == nil {
			return
		}
		for _, field := range list.List {
			for _, name := range field.Names {
				f(name, local)
			}
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.FuncDecl:
			f(n.Name, false)
			fields(n.Recv, true)
		case *ast.FuncType:
			fields(n.Params, true)
			fields(n.Results, true)
		case *ast.TypeSpec:
			f(n.Name, false)
		case *ast.StructType:
			fields(n.Fields, false)
		case *ast.ValueSpec:
			for _, name := range n.Names {
				f(name, name.Obj == nil || name.Obj.Kind == ast.Var)
			}
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				if name, ok := left.(*ast.Ident); ok && n.Tok == token.DEFINE {
					f(name, true)
				}
			}
		}
		return true
	})
}

// eachDecl calls f for every declaration at the top of a file, with where it begins.
func eachDecl(t *testing.T, f func(at token.Position, decl ast.Decl, set *token.FileSet)) {
	t.Helper()
	set := token.NewFileSet()
	for _, file := range goFiles(t, everywhere...) {
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			f(set.Position(decl.Pos()), decl, set)
		}
	}
}
