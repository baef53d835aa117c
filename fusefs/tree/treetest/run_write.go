package treetest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/fusefs/tree"
)

func (s *suite) begin(key string) tree.Upload {
	s.Helper()
	up, err := s.o.Begin(s.ctx, key)
	s.must(err)
	return up
}

func (s *suite) part(key string, up tree.Upload, n int, data string) {
	s.Helper()
	s.must(s.o.Part(s.ctx, key, up, n, strings.NewReader(data), int64(len(data))))
}

func (s *suite) parts() {
	up := s.begin("f")
	s.part("f", up, 7, "never used")
	s.part("f", up, 2, "WORLD")
	s.part("f", up, 1, "hello there")
	s.part("f", up, 2, "world")
	buf := make([]byte, 5)
	n, err := s.o.ReadPart(s.ctx, "f", up, 1, buf, 6)
	if n != 5 || err != nil && !errors.Is(err, io.EOF) || string(buf) != "there" {
		s.Fatalf("part reads back %q, %d, %v", buf[:n], n, err)
	}
	if n, err := s.o.ReadPart(s.ctx, "f", up, 2, buf, 3); n != 2 || !errors.Is(err, io.EOF) || string(buf[:2]) != "ld" {
		s.Fatalf("end of a part reads back %q, %v", buf[:n], err)
	}
	s.wantNone("f")
	f := tree.File{Key: "f", Upload: up, Attr: fileAttr(0o644), Pieces: []tree.Piece{
		{Part: 1, Len: 5}, {Hole: true, Len: 3}, {Part: 2, Off: 1, Len: 3}, {Part: 1, Off: 5, Len: 6},
	}}
	want := "hello\x00\x00\x00orl there"
	info, err := s.o.Publish(s.ctx, f)
	s.must(err)
	s.wantData("f", want)
	// The upload goes on for the next publish of the same open file.
	s.part("f", up, 3, "more")
	f.Pieces = []tree.Piece{{Base: true, Len: int64(len(want))}, {Part: 3, Len: 4}, {Part: 1, Len: 1}}
	f.Cond = tree.Cond{Base: info.Version}
	_, err = s.o.Publish(s.ctx, f)
	s.must(err)
	s.must(s.o.Abort(s.ctx, "f", up))
	s.wantData("f", want+"moreh")
	if err := s.o.Part(s.ctx, "f", up, 4, strings.NewReader("x"), 1); err == nil {
		s.Fatal("an aborted upload takes parts")
	}
	s.wantData("f", want+"moreh")
}

func (s *suite) partsInParallel() {
	up := s.begin("f")
	var wg sync.WaitGroup
	errs := make([]error, 8)
	body := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 300_000+i) }
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = s.o.Part(s.ctx, "f", up, i+1, bytes.NewReader(body(i)), int64(len(body(i))))
		}()
	}
	wg.Wait()
	s.must(errors.Join(errs...))
	f := tree.File{Key: "f", Upload: up, Attr: fileAttr(0o644)}
	var want []byte
	for i := range errs {
		f.Pieces = append(f.Pieces, tree.Piece{Part: i + 1, Len: int64(len(body(i)))})
		want = append(want, body(i)...)
	}
	_, err := s.o.Publish(s.ctx, f)
	s.must(err)
	s.must(s.o.Abort(s.ctx, "f", up))
	s.wantData("f", string(want))
}

// base checks many small changes to a large version.
func (s *suite) base() {
	want := bytes.Repeat([]byte("0123456789"), 120_000)
	info := s.put("f", string(want))
	for round := range 3 {
		up := s.begin("f")
		s.part("f", up, 1, strings.Repeat("X", 100))
		f := tree.File{Key: "f", Upload: up, Attr: fileAttr(0o644), Cond: tree.Cond{Base: info.Version}}
		at := int64(0)
		for i := range int64(20) {
			off := i*50_000 + int64(round)*1000
			f.Pieces = append(f.Pieces, tree.Piece{Base: true, Off: at, Len: off - at}, tree.Piece{Part: 1, Off: i, Len: 5})
			copy(want[off:], "XXXXX")
			at = off + 5
		}
		if f.Pieces[0].Len == 0 {
			f.Pieces = f.Pieces[1:]
		}
		f.Pieces = append(f.Pieces, tree.Piece{Base: true, Off: at, Len: int64(len(want)) - at})
		var err error
		info, err = s.o.Publish(s.ctx, f)
		s.must(err)
		s.must(s.o.Abort(s.ctx, "f", up))
		s.wantData("f", string(want))
		_, err = s.o.Publish(s.ctx, f)
		if err == nil {
			s.Fatal("pieces of a replaced base were published")
		}
	}
	size := int64(len(want)) - 100
	_, err := s.o.Publish(s.ctx, tree.File{
		Key: "f", Attr: fileAttr(0o644), Cond: tree.Cond{Base: info.Version}, Pieces: []tree.Piece{{Base: true, Len: size}},
	})
	s.must(err)
	s.wantData("f", string(want[:size]))
}

func (s *suite) stage() {
	s.put("f", "published")
	f := tree.File{Key: "f", Inode: 5, Attr: fileAttr(0o644), Data: []byte("staged")}
	s.must(s.o.Stage(s.ctx, f))
	s.wantData("f", "published")
	f.Data = []byte("staged again")
	s.must(s.o.Stage(s.ctx, f))
	s.must(s.o.Discard(s.ctx, "f", 5))
	s.must(s.o.Discard(s.ctx, "f", 5))
	s.wantData("f", "published")
	up := s.begin("g")
	s.part("g", up, 1, "bytes of a part")
	g := tree.File{Key: "g", Inode: 6, Attr: fileAttr(0o644), Upload: up, Pieces: []tree.Piece{{Part: 1, Len: 15}}}
	s.must(s.o.Stage(s.ctx, g))
	s.wantNone("g")
	_, err := s.o.Publish(s.ctx, g)
	s.must(err)
	s.must(s.o.Abort(s.ctx, "g", up))
	s.wantData("g", "bytes of a part")
}

// renamedUpload is a file that gets another name while it is open and its parts are on their way.
func (s *suite) renamedUpload() {
	base := strings.Repeat("base", 100_000)
	s.put("old", base)
	up := s.begin("old")
	s.part("old", up, 1, "new bytes")
	info, err := s.o.Rename(s.ctx, "old", "new", false)
	s.must(err)
	s.part("old", up, 2, "more")
	_, err = s.o.Publish(s.ctx, tree.File{
		Key: "new", Upload: up, Attr: fileAttr(0o644), Cond: tree.Cond{Base: info.Version},
		Pieces: []tree.Piece{{Part: 1, Len: 9}, {Base: true, Off: 9, Len: int64(len(base)) - 9}, {Part: 2, Len: 4}},
	})
	s.must(err)
	s.must(s.o.Abort(s.ctx, "old", up))
	s.wantData("new", "new bytes"+base[9:]+"more")
	s.wantNone("old")
}
