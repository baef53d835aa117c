// Package tests keeps the laws of the tree: who may import whom, where outside dependencies enter, what is written
// down. The folders below it drive the running binary.
package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/holdfast/holdfast/"

// goFile is one parsed Go file of the repository.
type goFile struct {
	path string // slash-separated, from the root
	dir  string
	test bool
	ast  *ast.File
	fset *token.FileSet
}

func (f goFile) imports() []string {
	var list []string
	for _, spec := range f.ast.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err)
		}
		list = append(list, name)
	}
	return list
}

func (f goFile) generated() bool { return ast.IsGenerated(f.ast) }

// tree parses every Go file of the repository.
func tree(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "holdfast-data" || name == "mnt") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		short := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		files = append(files, goFile{path: short, dir: filepath.ToSlash(filepath.Dir(short)), test: strings.HasSuffix(name, "_test.go"), ast: parsed, fset: fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d Go files found: the walk is wrong", len(files))
	}
	return files
}

// floors orders the packages: a package may import its own top folder and those on lower floors.
var floors = map[string]int{"cmd": 5, "fusefs": 4, "multipart": 3, "metadata": 2, "chunkstore": 2, "cluster": 1}

func TestImportsGoDown(t *testing.T) {
	for _, f := range tree(t) {
		top, _, _ := strings.Cut(f.dir, "/")
		floor, known := floors[top]
		if top == "tests" {
			continue
		}
		if !known {
			t.Errorf("%s: folder %q is on no floor", f.path, top)
			continue
		}
		for _, name := range f.imports() {
			target, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			targetTop, _, _ := strings.Cut(target, "/")
			if f.test && targetTop == "tests" {
				continue
			}
			if targetTop != top && floors[targetTop] >= floor || targetTop == "tests" {
				if f.test && floors[targetTop] > 0 && floors[targetTop] <= floor {
					continue // a test may put metadata and chunkstore side by side
				}
				t.Errorf("%s imports %s: imports go down, cmd → fusefs → multipart → metadata or chunkstore → cluster", f.path, target)
			}
		}
	}
}

// doors names the one folder through which each outside dependency enters (tests may use all of them).
var doors = map[string][]string{
	"github.com/hanwen/go-fuse/":       {"fusefs"},
	"github.com/hashicorp/memberlist":  {"cluster/membership"},
	"go.etcd.io/raft/":                 {"cluster/raft"},
	"github.com/syndtr/goleveldb/":     {"cluster/kv"},
	"github.com/klauspost/reedsolomon": {"chunkstore/erasure"},
	"github.com/spf13/cobra":           {"cmd/holdfast"},
	"github.com/spf13/pflag":           {"cmd/holdfast"},
	"gopkg.in/yaml.v3":                 {"cmd/holdfast"},
	"github.com/schollz/progressbar/":  {"cmd/holdfast"},
	"github.com/minio/minio-go/":       {},
	"pgregory.net/rapid":               {},
	"go.uber.org/goleak":               {},
	"github.com/minio/crc64nvme":       {"multipart"},
	"github.com/hashicorp/raft":        {},
	"github.com/aws/aws-sdk-go-v2":     {"cmd/holdfast"},
}

// testPackages are packages without _test in their names that only tests import.
var testPackages = []string{"chunkstore/drivetest", "fusefs/tree/treetest", "cluster/vfs/vfstest"}

func TestDependenciesEnterThroughOneDoor(t *testing.T) {
	for _, f := range tree(t) {
		if f.test || f.dir == "tests" || strings.HasPrefix(f.dir, "tests/") || slices.Contains(testPackages, f.dir) {
			continue
		}
		for _, name := range f.imports() {
			for prefix, doors := range doors {
				through := func(door string) bool {
					return f.dir == door || door == "cmd/holdfast" && strings.HasPrefix(f.dir, door+"/")
				}
				if strings.HasPrefix(name, prefix) && !slices.ContainsFunc(doors, through) {
					t.Errorf("%s imports %s, which enters only through %v", f.path, name, doors)
				}
			}
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range tree(t) {
		if f.test && f.dir != "tests" || f.generated() {
			continue
		}
		documented[f.dir] = documented[f.dir] || f.ast.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

// pure packages compute: no sockets, no files, no clock, no goroutines.
var pure = []string{"cluster/placement", "chunkstore/erasure", "metadata/record", "metadata/iam", "multipart/s3/sigv4"}

func TestPurePackagesStayPure(t *testing.T) {
	forbidden := []string{"os", "net", "net/http", "syscall", "sync", "golang.org/x/sys/unix", "math/rand", "math/rand/v2"}
	for _, f := range tree(t) {
		if f.test || !slices.Contains(pure, f.dir) || f.generated() {
			continue
		}
		for _, name := range f.imports() {
			if name == "net/http" && f.dir == "multipart/s3/sigv4" {
				continue // header and request types are values there
			}
			if name == "sync" && f.dir == "chunkstore/erasure" {
				continue // the codec keeps its inverted matrices behind a mutex
			}
			if slices.Contains(forbidden, name) {
				t.Errorf("%s imports %s: %s is pure", f.path, name, f.dir)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: %s starts a goroutine: %s is pure", f.fset.Position(n.Pos()), f.path, f.dir)
			case *ast.SelectorExpr:
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "time" && n.Sel.Name == "Now" {
					t.Errorf("%s reads the clock: %s is pure", f.fset.Position(n.Pos()), f.dir)
				}
			}
			return true
		})
	}
}

func TestNoHiddenWiring(t *testing.T) {
	for _, f := range tree(t) {
		if f.generated() {
			continue
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init functions hide wiring", f.fset.Position(fn.Pos()))
			}
		}
		switch filepath.Base(f.dir) {
		case "util", "utils", "common", "types", "helpers", "misc", "internal":
			t.Errorf("%s: %q says nothing about what is inside", f.path, filepath.Base(f.dir))
		}
	}
}

func TestNoSleepsInTests(t *testing.T) {
	for _, f := range tree(t) {
		if !f.test && !strings.HasPrefix(f.dir, "tests") || slices.Contains(f.imports(), "testing/synctest") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && sel.Sel.Name == "Sleep" {
					t.Errorf("%s sleeps: poll with a deadline, or use a synctest bubble", f.fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// environment is read by cmd alone.
func TestEnvironmentStaysAtTheTop(t *testing.T) {
	for _, f := range tree(t) {
		if f.test || strings.HasPrefix(f.dir, "cmd") || strings.HasPrefix(f.dir, "tests") || slices.Contains(testPackages, f.dir) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "os" && (sel.Sel.Name == "Getenv" || sel.Sel.Name == "LookupEnv" || sel.Sel.Name == "Exit") {
					t.Errorf("%s uses os.%s: only cmd does", f.fset.Position(n.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestReadmeMapEqualsTheTree compares the table of packages in README.md with the folders that hold Go code.
func TestReadmeMapEqualsTheTree(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "## Where things are")
	if !found {
		t.Fatal(`README.md has no section "Where things are"`)
	}
	var listed []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)/?` \\|").FindAllStringSubmatch(section, -1) {
		listed = append(listed, strings.TrimSuffix(match[1], "/"))
	}
	var have []string
	for _, f := range tree(t) {
		if !f.generated() && !slices.Contains(have, f.dir) {
			have = append(have, f.dir)
		}
	}
	sort.Strings(have)
	sort.Strings(listed)
	for _, dir := range have {
		if !slices.Contains(listed, dir) {
			t.Errorf("README.md does not list %s", dir)
		}
	}
	for _, dir := range listed {
		if !slices.Contains(have, dir) {
			t.Errorf("README.md lists %s, which holds no Go code", dir)
		}
	}
}

// TestDocumentsNameTestsThatExist: a promise whose test was renamed or removed has none.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	exists := map[string]bool{}
	for _, f := range tree(t) {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && f.test {
				exists[fn.Name.Name] = true
			}
		}
	}
	documents, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, name := range append(documents, "../README.md", "../fusefs/SEMANTICS.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1) {
			named++
			if !exists[match[1]] {
				t.Errorf("%s names %s, which is no test", name, match[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d tests are named: the pattern is wrong", named)
	}
}

// TestFilesStaySmall watches the worst file: the longest files are where readers give up.
func TestFilesStaySmall(t *testing.T) {
	const most = 900
	for _, f := range tree(t) {
		if f.generated() {
			continue
		}
		if lines := f.fset.File(f.ast.Pos()).LineCount(); lines > most {
			t.Errorf("%s has %d lines, more than %d: cut it where its story changes", f.path, lines, most)
		}
	}
}
