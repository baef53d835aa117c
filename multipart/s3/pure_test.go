package s3

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// sentinelsOf lists the exported errors that a package declares with errors.New.
func sentinelsOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	var names []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok || general.Tok != token.VAR {
				continue
			}
			for _, spec := range general.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						names = append(names, filepath.Base(dir)+"."+name.Name)
					}
				}
			}
		}
	}
	return names
}

// TestEverySentinelHasItsRow reads the table and the packages below as source, so that a new error cannot be forgotten.
func TestEverySentinelHasItsRow(t *testing.T) {
	table, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\t\{([a-z0-9]+\.Err\w+),`).FindAllSubmatch(table, -1)
	var have []string
	for _, row := range rows {
		have = append(have, string(row[1]))
	}
	if len(have) < 50 {
		t.Fatalf("only %d rows were found", len(have))
	}
	for _, dir := range []string{"../../metadata", "../../chunkstore", "..", "sigv4", "xmlapi"} {
		abs, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		names := sentinelsOf(t, abs)
		if len(names) == 0 {
			t.Errorf("%s declares no errors", abs)
		}
		for _, name := range names {
			if !slices.Contains(have, name) {
				t.Errorf("%s has no row in errors.go", name)
			}
		}
	}
}

func TestErrorsBecomeTheRightCodes(t *testing.T) {
	for _, row := range sentinels {
		code, a := describe(fmt.Errorf("get b/k: %w", row.err))
		if a.status < 400 || a.message == "" {
			t.Errorf("%v gives %s with %+v", row.err, code, a)
		}
	}
	for code, a := range answers {
		if a.status < 400 || a.message == "" || fault(a.status) != (a.status == 500 || a.status == 503 || a.status == 507) {
			t.Errorf("%s: %+v", code, a)
		}
	}
	for _, c := range []struct {
		err    error
		code   Code
		status int
	}{
		{errors.Join(metadata.ErrNoSuchKey, metadata.ErrDeleteMarker), "NoSuchKey", 404},
		{metadata.ErrDeleteMarker, "MethodNotAllowed", 405},
		{fmt.Errorf("chunk: %w", errors.Join(chunkstore.ErrNotFound, chunkstore.ErrLost)), "InternalError", 500},
		{chunkstore.ErrDamaged, "InternalError", 500}, {chunkstore.ErrSlowDown, "SlowDown", 503}, {chunkstore.ErrFull, "StorageFull", 507},
		{metadata.ErrUnavailable, "SlowDown", 503}, {multipart.ErrIncompleteBody, "IncompleteBody", 400}, {context.DeadlineExceeded, "SlowDown", 503},
		{errors.New("surprise at /var/lib/x"), "InternalError", 500},
	} {
		code, a := describe(c.err)
		if code != c.code || a.status != c.status || strings.Contains(a.message, "/var") {
			t.Errorf("%v: %s %d, want %s %d", c.err, code, a.status, c.code, c.status)
		}
	}
	for _, code := range regexp.MustCompile(`Code\("(\w+)"\)`).FindAllStringSubmatch(sources(t), -1) {
		if _, there := answers[Code(code[1])]; !there {
			t.Errorf("%s is used and has no answer", code[1])
		}
	}
	for _, s := range stubs {
		if _, there := answers[s.code]; s.code != "" && !there {
			t.Errorf("%s has no answer", s.code)
		}
	}
}

// sources is this package's code as text.
func sources(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestCompatibilityTableEqualsTheRouter compares docs/compatibility.md with the routes, both ways.
func TestCompatibilityTableEqualsTheRouter(t *testing.T) {
	doc, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, have []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(\\w+) ([^`]*)` \\|").FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, row[1]+" "+row[2]+" "+row[3])
	}
	for _, r := range routes() {
		have = append(have, r.op+" "+r.method+" "+r.form())
	}
	slices.Sort(listed)
	slices.Sort(have)
	for _, row := range have {
		if !slices.Contains(listed, row) {
			t.Errorf("docs/compatibility.md does not list %q", row)
		}
	}
	for _, row := range listed {
		if !slices.Contains(have, row) {
			t.Errorf("docs/compatibility.md lists %q, which is no route", row)
		}
	}
}

// form is how a route is written in the table.
func (r route) form() string {
	form := map[level]string{serviceLevel: "/", bucketLevel: "/bucket", objectLevel: "/bucket/key"}[r.level]
	if len(r.subs) > 0 {
		form += "?" + strings.Join(r.subs, "&")
	}
	if r.copies {
		form += " + x-amz-copy-source"
	}
	return form
}

func TestRoutesAreDistinct(t *testing.T) {
	seen := map[string]string{}
	for _, r := range routes() {
		form := r.method + " " + r.form()
		if other, twice := seen[form]; twice {
			t.Errorf("%s and %s are both %s", r.op, other, form)
		}
		seen[form] = r.op
		for _, sub := range append(slices.Clone(r.subs), r.optional...) {
			if !slices.Contains(subResources[:], sub) {
				t.Errorf("%s needs ?%s, which is not known as a sub-resource", r.op, sub)
			}
		}
	}
}

func TestChecksumsCombine(t *testing.T) {
	data := bytes.Repeat([]byte("holdfast keeps bytes "), 5000)
	for _, a := range algorithms {
		whole := a.make()
		whole.Write(data)
		for _, cuts := range [][]int{{0}, {1}, {0, 0, 1, 2, 5, 5, 4096, 99_999}, {1 << 15, 1 << 16}, {len(data)}} {
			var parts []sizedSum
			from := 0
			for _, to := range append(slices.Clone(cuts), len(data)) {
				h := a.make()
				h.Write(data[from:to])
				parts = append(parts, sizedSum{base64.StdEncoding.EncodeToString(h.Sum(nil)), int64(to - from)})
				from = to
			}
			if a.allows(fullObject) {
				got, err := objectChecksum(a, fullObject, parts)
				if want := base64.StdEncoding.EncodeToString(whole.Sum(nil)); err != nil || got != want {
					t.Errorf("%s cut at %v: %s, %v; want %s", a.name, cuts, got, err, want)
				}
			}
			got, err := objectChecksum(a, composite, parts)
			if err != nil || !strings.HasSuffix(got, fmt.Sprintf("-%d", len(parts))) {
				t.Errorf("%s composite: %s, %v", a.name, got, err)
			}
		}
		if _, err := objectChecksum(a, composite, []sizedSum{{"", 1}}); !errors.Is(err, Code("InvalidPart")) {
			t.Errorf("%s: a part without checksum: %v", a.name, err)
		}
	}
	// The published check value of CRC-64/NVME.
	nvme, _ := findAlgorithm("crc64nvme")
	h := nvme.make()
	h.Write([]byte("123456789"))
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != "ae8b14860a799888" {
		t.Errorf("CRC64NVME of 123456789 is %s", got)
	}
}

func TestTenThousandChecksumsCombineFast(t *testing.T) {
	nvme, _ := findAlgorithm("CRC64NVME")
	parts := make([]sizedSum, multipart.MaxParts)
	for i := range parts {
		parts[i] = sizedSum{base64.StdEncoding.EncodeToString([]byte{1, 2, 3, 4, 5, 6, byte(i >> 8), byte(i)}), int64(5<<20 + i)}
	}
	result := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, err := objectChecksum(nvme, fullObject, parts); err != nil {
				b.Fatal(err)
			}
		}
	})
	// The bar leaves room for a busy machine: alone it takes about 15 ms.
	if took := result.NsPerOp(); took > 500e6 {
		t.Errorf("10,000 parts take %d ms", took/1e6)
	}
}

func TestCopySourcesAreDecodedOnce(t *testing.T) {
	for value, want := range map[string]string{
		"/bucket/key": "key", "bucket/key": "key", "bucket/a%20b%2Bc+d": "a b+c+d", "bucket/%252e%252e/x": "%2e%2e/x", "bucket/..%2F..%2Fetc": "../../etc", "bucket/a%3FversionId=x": "a?versionId=x", "bucket//a": "/a",
	} {
		got, err := parseCopySource(value)
		if err != nil || got.bucket != "bucket" || got.key != want {
			t.Errorf("%s: %+v, %v; want %q", value, got, err, want)
		}
	}
	for _, value := range []string{"", "/", "bucket", "bucket/", "/bucket/", "UP/key", "bucket/%zz", "bucket/k?versionId=", "bucket/k?versionId=x", "../bucket/key", "bucket/" + strings.Repeat("k", 1025), strings.Repeat("a", 7000)} {
		if got, err := parseCopySource(value); err == nil {
			t.Errorf("%q was taken as %+v", value, got)
		}
	}
	id := metadata.VersionID{Clock: 9}
	got, err := parseCopySource("bucket/k?versionId=" + id.String())
	if err != nil || *got.at.Version != id {
		t.Errorf("version: %+v, %v", got, err)
	}
}

func TestHeaderTextNeverHidesALineBreak(t *testing.T) {
	for value, want := range map[string]string{
		"plain": "plain", "=?UTF-8?Q?a=0D=0AX-Evil:_1?=": "=?UTF-8?Q?a=0D=0AX-Evil:_1?=", "=?UTF-8?Q?a=C3=A4?=": "aä", "=?broken": "=?broken", "\xe4": "ä", "=?X-NONE?Q?a?=": "=?X-NONE?Q?a?=",
	} {
		if got := decodeText(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
		if encoded := encodeText(want); strings.ContainsAny(encoded, "\r\n") {
			t.Errorf("%q is sent as %q", want, encoded)
		}
	}
}

func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-1", "bytes=-5", "bytes=5-", "bytes=99999999999999999999-", "bytes=1-2,3-4", "x", "bytes=-", "bytes=--1"} {
		f.Add(seed, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		span, ranged, err := parseRange(header, size)
		if err == nil && (span.Off < 0 || span.Len < 0 || span.Off+span.Len > size || ranged && span.Len == 0 || !ranged && span.Len != size) {
			t.Errorf("%q of %d: %+v", header, size, span)
		}
		if copied, err := parseCopyRange(header); err == nil && (copied.Off < 0 || copied.Len <= 0) {
			t.Errorf("%q: %+v", header, copied)
		}
	})
}

func FuzzCopySource(f *testing.F) {
	for _, seed := range []string{"/b/k", "bucket/a%20b?versionId=null", "bucket/%00", "%2Fbucket%2Fkey"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if got, err := parseCopySource(value); err == nil && (!validBucketName(got.bucket) || checkKey(got.key) != nil) {
			t.Errorf("%q was taken as %+v", value, got)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(sealToken(1, "p", "/", "after"), "p", "/")
	f.Fuzz(func(t *testing.T, token, prefix, delimiter string) {
		if after, err := openToken(token, 1, prefix, delimiter); err == nil && sealToken(1, prefix, delimiter, after) != token {
			t.Errorf("token %q was not ours", token)
		}
		if back, err := openToken(sealToken(1, prefix, delimiter, token), 1, prefix, delimiter); err != nil || back != token {
			t.Errorf("sealed %q, opened %q, %v", token, back, err)
		}
	})
}

func FuzzTagHeader(f *testing.F) {
	f.Add("a=1&b=2")
	f.Fuzz(func(t *testing.T, value string) {
		if tags, err := parseTagHeader(value); err == nil && checkTags(tags) != nil {
			t.Errorf("%q gave %v", value, tags)
		}
	})
}

func FuzzUserMeta(f *testing.F) {
	f.Add("X-Amz-Meta-A", "=?UTF-8?B?w6TDtg==?=")
	f.Fuzz(func(t *testing.T, name, value string) {
		meta, err := userMeta(http.Header{name: {value}})
		if err != nil {
			return
		}
		for _, v := range meta {
			if strings.ContainsAny(encodeText(v), "\r\n") && !strings.ContainsAny(value, "\r\n") {
				t.Errorf("%q is sent as %q", value, encodeText(v))
			}
		}
	})
}
