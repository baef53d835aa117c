package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/erasure"
	"github.com/holdfast/holdfast/cluster"
)

// scene is a shard of three rows, which the peer may lie about.
type scene struct {
	header  *chunkstore.Header
	chunk   chunkstore.Chunk
	payload []byte
}

func newScene(seq uint32) scene {
	const size = 3 * 8 * erasure.Cell
	s := scene{payload: bytes.Repeat([]byte{byte(seq)}, 3*erasure.Cell)}
	h := &chunkstore.Header{Key: chunkstore.ShardKey{Volume: 1, Chunk: chunkstore.ChunkID{Block: 2, Seq: seq}, Shard: 4},
		Epoch: 1, Size: size, Layout: erasure.Default.Layout(size)}
	for off := 0; off < len(s.payload); off += erasure.Leaf {
		s.payload[off] = byte(off / erasure.Leaf)
		h.Leaves = append(h.Leaves, sha256.Sum256(s.payload[off:off+erasure.Leaf]))
	}
	h.Roots[4] = chunkstore.Root(h.Leaves)
	digest := h.Digest()
	s.header = h
	s.chunk = chunkstore.Chunk{Volume: 1, ID: h.Key.Chunk, Size: size, Digest: [16]byte(digest[:16])}
	return s
}

// stream lays out frames and bytes.
type stream struct{ b []byte }

func (s *stream) frame(k kind, body []byte) *stream {
	from := len(s.b)
	s.b = endFrame(append(beginFrame(s.b), body...), from, k)
	return s
}

func (s *stream) answer(a answer, message []byte) *stream {
	return s.frame(kindAnswer, append(appendAnswer(nil, a), message...))
}

func (s *stream) piece(b []byte) *stream {
	s.frame(kindPiece, le.AppendUint32(nil, uint32(len(b))))
	s.b = append(s.b, b...)
	return s
}

func (s *stream) rows(rows ...chunkstore.ShardInfo) *stream {
	var b []byte
	for _, row := range rows {
		b = appendShardRow(b, row)
	}
	return s.frame(kindRows, b)
}

// quiet returns a drive without status calls, whose peer gives these answers.
func quiet(b []byte) *Drive {
	return &Drive{client: &http.Client{Transport: answers(b)}, base: "http://peer" + Prefix, kick: make(chan struct{}, 1),
		o: Options{Silence: time.Minute, Stale: time.Minute}, life: context.Background()}
}

func TestLiesAboutPayloadAreDamage(t *testing.T) {
	s, other := newScene(1), newScene(2)
	n := erasure.Cell
	swapped := slices.Concat(s.payload[n:2*n], s.payload[:n], s.payload[2*n:])
	otherShard := *s.header
	otherShard.Key.Shard, otherShard.Roots[5] = 5, otherShard.Roots[4]
	forged := *s.header
	forged.Leaves = slices.Clone(forged.Leaves)
	forged.Leaves[0] = sha256.Sum256(other.payload[:erasure.Leaf])
	forged.Roots[4] = chunkstore.Root(forged.Leaves)
	open := func(h *chunkstore.Header) *stream { return new(stream).answer(answer{}, appendHeader(nil, h)) }
	for name, c := range map[string]struct {
		answer *stream
		want   error
	}{
		"the truth":                   {open(s.header).piece(s.payload), nil},
		"the truth in pieces":         {open(s.header).piece(s.payload[:n]).frame(kindAlive, nil).piece(s.payload[n:]), nil},
		"another payload":             {open(s.header).piece(other.payload), chunkstore.ErrDamaged},
		"rows in another order":       {open(s.header).piece(swapped), chunkstore.ErrDamaged},
		"another chunk":               {open(other.header).piece(other.payload), chunkstore.ErrDamaged},
		"another shard":               {open(&otherShard).piece(s.payload), chunkstore.ErrDamaged},
		"a header made to fit":        {open(&forged).piece(slices.Concat(other.payload[:erasure.Leaf], s.payload[erasure.Leaf:])), chunkstore.ErrDamaged},
		"more than was asked for":     {open(s.header).piece(s.payload[:n]).piece(s.payload), chunkstore.ErrDamaged},
		"pieces of nothing":           {open(s.header).piece(nil).piece(s.payload), chunkstore.ErrDamaged},
		"a piece that ends in a leaf": {open(s.header).piece(s.payload[:1000]).piece(s.payload[1000:]), chunkstore.ErrDamaged},
		"no header":                   {new(stream).answer(answer{}, nil).piece(s.payload), chunkstore.ErrDamaged},
		"no piece":                    {open(s.header), chunkstore.ErrDriveDown},
		"less than was asked for":     {open(s.header).piece(s.payload[:n]), chunkstore.ErrDriveDown},
		"rows":                        {open(s.header).rows(goldenShard), chunkstore.ErrDriveDown},
		"an error in the middle": {open(s.header).piece(s.payload[:n]).
			answer(answer{fault: faultOf(chunkstore.ErrNotFound), text: "moved"}, nil), chunkstore.ErrNotFound},
	} {
		dst := make([]byte, len(s.payload))
		err := quiet(c.answer.b).Read(t.Context(), s.chunk, 4, 0, dst)
		if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(dst, s.payload) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if h, err := quiet(open(other.header).b).Header(t.Context(), s.header.Key); h != nil || !errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("the header of another shard: %v", err)
	}
}

func TestLiesInListsAreDamage(t *testing.T) {
	row := func(volume chunkstore.VolumeID, seq uint32, shard uint8) chunkstore.ShardInfo {
		return chunkstore.ShardInfo{Key: chunkstore.ShardKey{Volume: volume, Chunk: chunkstore.ChunkID{Seq: seq}, Shard: shard}}
	}
	end := answer{}
	for name, c := range map[string]struct {
		answer *stream
		rows   int
		want   error
	}{
		"the truth":        {new(stream).rows(row(7, 1, 0), row(7, 1, 1)).rows(row(7, 2, 0)).answer(end, nil), 3, nil},
		"nothing":          {new(stream).answer(end, nil), 0, nil},
		"twice":            {new(stream).rows(row(7, 1, 0)).rows(row(7, 1, 0)).answer(end, nil), 0, chunkstore.ErrDamaged},
		"backwards":        {new(stream).rows(row(7, 2, 0), row(7, 1, 0)).answer(end, nil), 0, chunkstore.ErrDamaged},
		"another volume":   {new(stream).rows(row(8, 2, 0)).answer(end, nil), 0, chunkstore.ErrDamaged},
		"no such shard":    {new(stream).rows(row(7, 2, 12)).answer(end, nil), 0, chunkstore.ErrDamaged},
		"no end":           {new(stream).rows(row(7, 2, 0)), 0, chunkstore.ErrDriveDown},
		"half a row":       {new(stream).frame(kindRows, make([]byte, shardRow+1)).answer(end, nil), 0, chunkstore.ErrDriveDown},
		"rows of no bytes": {new(stream).frame(kindRows, nil).answer(end, nil), 0, chunkstore.ErrDriveDown},
		"a piece":          {new(stream).piece(nil).answer(end, nil), 0, chunkstore.ErrDriveDown},
		"a late error": {new(stream).rows(row(7, 1, 0)).answer(answer{fault: faultOf(chunkstore.ErrDriveDown)}, nil), 0,
			chunkstore.ErrDriveDown},
	} {
		list, err := quiet(c.answer.b).Shards(t.Context(), 7)
		if !errors.Is(err, c.want) || len(list) != c.rows {
			t.Errorf("%s: %d rows, %v, want %v", name, len(list), err, c.want)
		}
	}
	backwards := appendVolumeRow(appendVolumeRow(nil, goldenVolume), goldenVolume)
	list, err := quiet(new(stream).frame(kindRows, backwards).answer(end, nil).b).Volumes(t.Context())
	if list != nil || !errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("a volume twice: %v, %v", list, err)
	}
}

// TestListsHaveABound: a peer that lists on and on is not believed.
func TestListsHaveABound(t *testing.T) {
	c := &call{drive: quiet(nil)}
	var s stream
	s.rows(goldenShard, goldenShard).rows(goldenShard, goldenShard).answer(answer{}, nil)
	for most, want := range map[int]error{4: nil, 3: chunkstore.ErrDamaged} {
		c.frames = frames{r: bytes.NewReader(s.b)}
		taken := 0
		err := c.rows(shardRow, most, func(r *reader) error { r.shardRow(); taken++; return nil })
		if !errors.Is(err, want) || taken > most {
			t.Errorf("at most %d rows: %d taken, %v", most, taken, err)
		}
	}
}

// TestCallsStandUnderTheirOwnPath: who may call what is decided by the path, so no other call may hide behind it.
func TestCallsStandUnderTheirOwnPath(t *testing.T) {
	server := httptest.NewServer(Handler(func(cluster.DriveID) (chunkstore.Drive, bool) {
		t.Error("a drive was looked for")
		return nil, false
	}, HandlerOptions{}))
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	del := endFrame(append(beginFrame(nil), appendCaller(nil, caller{})...), 0, kindDelete)
	for _, name := range []string{"status", "read", "put", "kind 0", "answer"} {
		a, err := server.Client().Post(server.URL+Prefix+url.PathEscape(name), contentType, bytes.NewReader(del))
		if err != nil {
			t.Fatal(err)
		}
		k, body, err := (&frames{r: a.Body}).next()
		if e := a.Body.Close(); err != nil || e != nil || k != kindAnswer {
			t.Fatal(k, err, e)
		}
		r := &reader{b: body}
		if got := r.answer(); !errors.Is(fault(got.fault, got.text), ErrProtocol) {
			t.Errorf("a delete under the path of %s: %s", name, got.text)
		}
	}
}

// TestReportsDoNotOvertake: the answer that was made last counts, whichever comes last.
func TestReportsDoNotOvertake(t *testing.T) {
	d := quiet(nil)
	told := func(boot, seq uint64, shards int64) *report {
		return &report{boot: boot, seq: seq, status: chunkstore.DriveStatus{Shards: shards}}
	}
	for _, step := range []struct {
		report *report
		want   int64
	}{{told(1, 5, 50), 50}, {told(1, 7, 70), 70}, {told(1, 6, 60), 70}, {nil, 70}, {told(2, 1, 10), 10}, {told(2, 2, 20), 20}} {
		d.hear(step.report)
		if got := d.Status().Shards; got != step.want {
			t.Errorf("after %+v: %d shards, want %d", step.report, got, step.want)
		}
	}
}

func TestPoolGivesOutNoMoreThanItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(4 << 20)
		ctx := t.Context()
		var held []*buffers
		for range 4 {
			b, err := p.take(ctx, erasure.Cell, 16, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, b)
		}
		begun := time.Now()
		if _, err := p.take(ctx, 1, 1, time.Second); !errors.Is(err, chunkstore.ErrDriveDown) || time.Since(begun) != time.Second {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := p.take(ended, 1, 1, time.Second); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second/2, held[0].release)
		b, err := p.take(ctx, maxPiece, 2, time.Second)
		if err != nil || len(b.parts) != 2 || len(b.parts[0]) != maxPiece {
			t.Fatal(err)
		}
		b.release()
		for _, b := range held[1:] {
			b.release()
		}
		all, err := p.take(ctx, erasure.Cell, 64, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		all.release()
	})
}
