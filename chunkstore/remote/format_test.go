package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/tests/expect"
)

var goldenKey = chunkstore.ShardKey{Volume: 0x1122334455667788, Chunk: chunkstore.ChunkID{Block: 77, Seq: 8}, Shard: 11}

func goldenHeader() *chunkstore.Header {
	h := &chunkstore.Header{
		Key: goldenKey, Epoch: 3, Size: 600_000, Layout: erasure.Default.Layout(600_000), Owner: [16]byte{9, 9},
	}
	for i := range h.Layout.Leaves() {
		h.Leaves = append(h.Leaves, sha256.Sum256([]byte{byte(i)}))
	}
	for i := range h.Roots {
		h.Roots[i] = sha256.Sum256([]byte{byte(i), 1})
	}
	h.Roots[11] = chunkstore.Root(h.Leaves)
	return h
}

func goldenChunk() chunkstore.Chunk {
	digest := goldenHeader().Digest()
	return chunkstore.Chunk{Volume: goldenKey.Volume, ID: goldenKey.Chunk, Size: 600_000, Digest: [16]byte(digest[:16])}
}

var (
	goldenCaller = caller{cluster: cluster.ClusterID{1}, drive: cluster.DriveID{2}, silence: 5 * time.Second}
	goldenSpan   = span{shard: 11, off: 65536, n: 16384}
	goldenShard  = chunkstore.ShardInfo{Key: goldenKey, Epoch: 3, Size: 600_000, Digest: [16]byte{1, 2}}
	goldenVolume = chunkstore.VolumeUse{Volume: 7, Shards: 8, Bytes: 1 << 33, Length: 1 << 34}
)

func goldenReport() *report {
	return &report{boot: 5, seq: 6, status: chunkstore.DriveStatus{
		Name: "d7", Path: "/mnt/d7", Down: fault(faultOf(chunkstore.ErrDriveDown), "unplugged"), Full: true, Device: 2049,
		Total: 20 << 40, Free: 1 << 40, Shards: 12, Bytes: 1 << 40, Damaged: 3,
	}}
}

// golden lays out one frame of every kind.
func golden() []byte {
	var b []byte
	frame := func(k kind, body []byte) {
		from := len(b)
		b = endFrame(append(beginFrame(b), body...), from, k)
	}
	request := func(k kind, message []byte) { frame(k, append(appendCaller(nil, goldenCaller), message...)) }
	request(kindPut, appendHeader(nil, goldenHeader()))
	request(kindHeader, appendKey(nil, goldenKey))
	request(kindRead, appendSpan(nil, goldenChunk(), goldenSpan))
	request(kindDelete, appendKey(le.AppendUint16(nil, 1), goldenKey))
	request(kindSeal, le.AppendUint64(le.AppendUint64(nil, 7), 4))
	request(kindShards, le.AppendUint64(nil, 7))
	request(kindVolumes, nil)
	request(kindCheck, appendKey(nil, goldenKey))
	request(kindStatus, nil)
	frame(kindAnswer, appendHeader(appendAnswer(nil, answer{report: goldenReport()}), goldenHeader()))
	frame(kindAnswer, appendAnswer(nil, answer{fault: faultOf(chunkstore.ErrDeleted), text: "gone"}))
	frame(kindPiece, le.AppendUint32(nil, 16384))
	frame(kindRows, appendShardRow(nil, goldenShard))
	frame(kindRows, appendVolumeRow(nil, goldenVolume))
	frame(kindAlive, nil)
	return b
}

// TestProtocol1IsWhatItWas holds encoders and decoders to the golden file: peers of different releases must
// understand one another.
func TestProtocol1IsWhatItWas(t *testing.T) {
	b := golden()
	expect.Golden(t, "protocol1.golden", b)
	f := frames{r: iotest.OneByteReader(bytes.NewReader(b))}
	want := func(k kind, take func(*reader) any, values ...any) {
		t.Helper()
		got, body, err := f.next()
		if err != nil || got != k {
			t.Fatalf("frame of %v, want %v: %v", got, k, err)
		}
		r := &reader{b: body}
		if k < kindAnswer {
			if c := r.caller(); c != goldenCaller {
				t.Fatalf("caller %+v", c)
			}
		}
		for i, value := range values {
			if i > 0 {
				take = func(r *reader) any { return r.header() }
			}
			if got := take(r); !reflect.DeepEqual(got, value) {
				t.Fatalf("%v: %+v, want %+v", k, got, value)
			}
		}
		if err := r.end("message"); err != nil {
			t.Fatal(err)
		}
	}
	want(kindPut, func(r *reader) any { return r.header() }, goldenHeader())
	want(kindHeader, func(r *reader) any { return r.key() }, goldenKey)
	want(kindRead, func(r *reader) any { c, s := r.span(); return []any{c, s} }, []any{goldenChunk(), goldenSpan})
	want(kindDelete, func(r *reader) any { keys, _ := decodeKeys(r); return keys }, []chunkstore.ShardKey{goldenKey})
	want(kindSeal, func(r *reader) any { return [2]uint64{r.u64(), r.u64()} }, [2]uint64{7, 4})
	want(kindShards, func(r *reader) any { return r.u64() }, uint64(7))
	want(kindVolumes, nil)
	want(kindCheck, func(r *reader) any { return r.key() }, goldenKey)
	want(kindStatus, nil)
	want(kindAnswer, func(r *reader) any { return r.answer() }, answer{report: goldenReport()}, goldenHeader())
	want(kindAnswer, func(r *reader) any { return r.answer() }, answer{fault: 1 << 5, text: "gone"})
	want(kindPiece, func(r *reader) any { return r.u32() }, uint32(16384))
	want(kindRows, func(r *reader) any { return r.shardRow() }, goldenShard)
	want(kindRows, func(r *reader) any { return r.volumeRow() }, goldenVolume)
	want(kindAlive, nil)
	if _, _, err := f.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
}

// TestFormatNamesTheNumbers holds FORMAT.md to the constants.
func TestFormatNamesTheNumbers(t *testing.T) {
	b, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	lines := []string{fmt.Sprintf("# Drive protocol, number %d", Protocol), Prefix,
		fmt.Sprintf("count u16 ≤ %d,%03d", maxKeys/1000, maxKeys%1000), fmt.Sprintf("count u16 ≤ %d ", maxLeaves)}
	for k := kindPut; k <= kindStatus; k++ {
		lines = append(lines, fmt.Sprintf("| %d | `%v` |", k, k))
	}
	for k := kindAnswer; k <= kindAlive; k++ {
		lines = append(lines, fmt.Sprintf("| %d | %v |", k, k))
	}
	for _, line := range lines {
		if !strings.Contains(text, line) {
			t.Errorf("FORMAT.md does not say %q", line)
		}
	}
}

func TestEveryFlippedBitOfAFrameIsFound(t *testing.T) {
	for _, whole := range [][]byte{
		endFrame(append(beginFrame(nil), appendHeader(appendAnswer(nil, answer{report: goldenReport()}), goldenHeader())...), 0, kindAnswer),
		endFrame(beginFrame(nil), 0, kindAlive),
	} {
		for bit := range len(whole) * 8 {
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			f := frames{r: bytes.NewReader(b)}
			if _, _, err := f.next(); !errors.Is(err, ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("bit %d: %v", bit, err)
			}
		}
		for n := range len(whole) {
			f := frames{r: bytes.NewReader(whole[:n])}
			if _, _, err := f.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
			}
		}
	}
}

func TestLengthsAreRefusedBeforeTheyAreAllocated(t *testing.T) {
	head := frameFormat.End(append(beginFrame(nil), make([]byte, maxFrame+1)...), byte(kindAnswer))[:frameHead]
	endless := io.MultiReader(bytes.NewReader(head), neverEnds{})
	if _, _, err := (&frames{r: endless}).next(); !errors.Is(err, ErrProtocol) {
		t.Errorf("a frame of %d bytes: %v", maxFrame+1, err)
	}
	h := appendHeader(nil, goldenHeader())
	le.PutUint16(h[keySize+8+4+16+12*32:], maxLeaves+1)
	r := &reader{b: h}
	if got := r.header(); !r.failed || got.Leaves != nil {
		t.Error("a header of too many leaves was taken")
	}
	r = &reader{b: append(le.AppendUint16(nil, maxText+1), make([]byte, 2*maxText)...)}
	if r.text(); !r.failed {
		t.Error("a text of too many bytes was taken")
	}
	for n, b := range map[int][]byte{maxKeys + 1: make([]byte, (maxKeys+1)*keySize), 2: make([]byte, keySize)} {
		if _, err := decodeKeys(&reader{b: append(le.AppendUint16(nil, uint16(n)), b...)}); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d keys in %d bytes: %v", n, len(b), err)
		}
	}
	for name, s := range map[string]span{
		"beyond the shard": {shard: 0, off: 1 << 17, n: 1}, "no such shard": {shard: 12}, "longest": {n: 1<<32 - 1},
	} {
		r = &reader{b: appendSpan(nil, goldenChunk(), s)}
		if r.span(); !r.failed {
			t.Errorf("a span %s was taken", name)
		}
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

// TestFaultsSurviveTheTrip: every sentinel and every pair of them arrives as what it was, and nothing else does.
func TestFaultsSurviveTheTrip(t *testing.T) {
	for i, a := range faultBits {
		for _, b := range faultBits[i:] {
			sent := fmt.Errorf("on the drive: %w, %w", a, b)
			got := fault(faultOf(sent), sent.Error())
			if !strings.Contains(got.Error(), sent.Error()) {
				t.Errorf("%v arrives as %v", sent, got)
			}
			ofContract := false
			about := func(s error) bool { return s == ErrForeign || s == ErrProtocol || s == ErrNotEntitled }
			ofPeer := about(a) || about(b) // and then of nothing else
			for _, s := range faultBits {
				want := errors.Is(sent, s) && !isContext(s) && (!ofPeer || about(s))
				if s == chunkstore.ErrDriveDown {
					continue
				}
				if errors.Is(got, s) != want {
					t.Errorf("%v arrives as %v: %v", sent, got, s)
				}
				ofContract = ofContract || want && !about(s)
			}
			if down := errors.Is(got, chunkstore.ErrDriveDown); down != (errors.Is(sent, chunkstore.ErrDriveDown) || !ofContract) {
				t.Errorf("%v arrives as %v", sent, got)
			}
		}
	}
	if fault(faultOf(nil), "") != nil {
		t.Error("success arrives as an error")
	}
	if got := fault(faultOf(os.ErrInvalid), "x"); !errors.Is(got, chunkstore.ErrDriveDown) {
		t.Errorf("an error of no kind arrives as %v", got)
	}
	if got := fault(1<<12, ""); !errors.Is(got, chunkstore.ErrDriveDown) {
		t.Errorf("an unknown bit arrives as %v", got)
	}
}

// FuzzMessages gives arbitrary bytes to every decoder: none may panic, and what is taken encodes back to the same.
func FuzzMessages(f *testing.F) {
	frames := frames{r: bytes.NewReader(golden())}
	for {
		_, body, err := frames.next()
		if err != nil {
			break
		}
		f.Add(bytes.Clone(body))
		if len(body) > callSize {
			f.Add(bytes.Clone(body[callSize:]))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, r *reader, again func() []byte) {
			if r.end(what) == nil {
				if got := again(); !bytes.Equal(got, b) {
					t.Fatalf("%s %x encodes as %x", what, b, got)
				}
			}
		}
		r := &reader{b: b}
		h := r.header()
		same("header", r, func() []byte { return appendHeader(nil, h) })
		r = &reader{b: b}
		c, s := r.span()
		same("span", r, func() []byte { return appendSpan(nil, c, s) })
		r = &reader{b: b}
		if keys, err := decodeKeys(r); err == nil && len(keys) > maxKeys {
			t.Fatalf("%d keys", len(keys))
		}
		r = &reader{b: b}
		who := r.caller()
		same("caller", r, func() []byte { return appendCaller(nil, who) })
		r = &reader{b: b}
		shard := r.shardRow()
		same("row of shards", r, func() []byte { return appendShardRow(nil, shard) })
		r = &reader{b: b}
		volume := r.volumeRow()
		same("row of volumes", r, func() []byte { return appendVolumeRow(nil, volume) })
		r = &reader{b: b}
		if a := r.answer(); !r.failed && (len(a.text) > maxText || fault(a.fault, a.text) == nil && a.fault != 0) {
			t.Fatalf("answer %+v", a)
		}
	})
}

// answers is a peer that answers every call with the same bytes.
type answers []byte

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {contentType}}, Request: r,
		Body: io.NopCloser(bytes.NewReader(a))}, r.Body.Close()
}

// FuzzAnswers lets a peer answer with arbitrary frames, their checksums made right: no call may panic, take bytes that
// are not those of the chunk, or give an error that the contract does not know.
func FuzzAnswers(f *testing.F) {
	payload := make([]byte, 16384)
	h := goldenHeader()
	h.Leaves[4] = sha256.Sum256(payload)
	h.Roots[11] = chunkstore.Root(h.Leaves)
	digest := h.Digest()
	want := goldenChunk()
	want.Digest = [16]byte(digest[:16])
	good := append(appendHeader(appendAnswer(nil, answer{}), h), 0)
	f.Add(uint8(kindAnswer), good[:len(good)-1], uint8(kindPiece), le.AppendUint32(nil, 16384), payload)
	f.Add(uint8(kindRows), appendShardRow(nil, goldenShard), uint8(kindAnswer), appendAnswer(nil, answer{}), []byte{})
	f.Add(uint8(kindRows), appendVolumeRow(nil, goldenVolume), uint8(kindAnswer), appendAnswer(nil, answer{report: goldenReport()}), []byte{})
	f.Fuzz(func(t *testing.T, k1 uint8, body1 []byte, k2 uint8, body2, rest []byte) {
		if len(body1) > maxFrame || len(body2) > maxFrame {
			return
		}
		b := endFrame(append(beginFrame(nil), body1...), 0, kind(k1))
		b = append(endFrame(append(beginFrame(b), body2...), len(b), kind(k2)), rest...)
		// Not New: its status calls would run beside.
		d := &Drive{client: &http.Client{Transport: answers(b)}, base: "http://peer" + Prefix, kick: make(chan struct{}, 1),
			o: Options{Silence: time.Minute, Stale: time.Minute}, life: context.Background()}
		ctx := context.Background()
		dst := make([]byte, len(payload))
		dst[0] = 1
		err := d.Read(ctx, want, 11, 4*16384, dst)
		if err == nil && !bytes.Equal(dst, payload) {
			t.Fatal("wrong bytes were taken")
		}
		_, err2 := d.Header(ctx, goldenKey)
		_, err3 := d.Shards(ctx, goldenKey.Volume)
		_, err4 := d.Volumes(ctx)
		for _, err := range []error{err, err2, err3, err4, d.Check(ctx, goldenKey), d.Seal(ctx, 1, 2)} {
			if err != nil && fault(faultOf(err), "") == nil || isContext(err) || errors.Is(err, ErrForeign) && !errors.Is(err, chunkstore.ErrDriveDown) {
				t.Fatalf("%v is not of the contract", err)
			}
			if err != nil && faultOf(err) == faultOther {
				t.Fatalf("%v is not of the contract", err)
			}
		}
		d.Status()
	})
}
