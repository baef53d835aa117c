package sim

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

const (
	// keys are few, so that clients meet on them.
	keys = 4
	// clientsEach is how many clients each gateway has: more find no more, and cost more.
	clientsEach = 1
	// patience is how long a client waits for an answer.
	patience = 8 * time.Second
	// inlineBody and chunkedBody bound the two kinds of bodies.
	inlineBody  = 300
	chunkedBody = 40 << 10
)

func keyName(n int) string { return fmt.Sprint("key", n) }

// eagerDraws are what eager clients do, of act's hundred: conditions and removals, most of all.
var eagerDraws = []int{40, 40, 60, 60, 60, 70, 70, 70, 80, 90, 90, 90}

// client is one user of one gateway.
type client struct {
	h      *history
	n      *node
	id     int
	random *rand.Rand
	bucket metadata.BucketID
	// eager, when not zero, is how long pauses are at most; eager clients all use one key.
	eager time.Duration
	// small bodies have no chunks; otherwise some have, or all.
	small, chunked bool
	// reads: it does nothing else, so that no write that hangs keeps it.
	reads bool
	// last is what it knows of each key, for conditions.
	last map[string]string
}

// load is all clients of a run.
type load struct {
	wait   sync.WaitGroup
	cancel context.CancelFunc
}

// startLoad starts clients at every gateway.
func startLoad(c *cluster, h *history) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	count, eager := len(c.nodes)*clientsEach, time.Duration(0)
	if c.bug != nil && c.bug.eager > 0 {
		count, eager = 2*count, c.bug.eager
	}
	for i := range count {
		u := &client{
			h: h, n: c.nodes[i%len(c.nodes)], id: i, random: rand.New(rand.NewPCG(c.seed, uint64(100+i))), eager: eager,
			small: eager > 0 && c.bug.seams != nil, chunked: c.bug != nil && c.bug.chunked,
			reads: i >= len(c.nodes)*clientsEach, last: map[string]string{},
		}
		l.wait.Go(func() { u.run(ctx) })
	}
	return l
}

func (l *load) stop() {
	l.cancel()
	l.wait.Wait()
}

// run does one thing after another until ctx ends; what is under way then is finished.
func (u *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		think := 500 * time.Millisecond
		if u.eager > 0 {
			think = u.eager
		}
		pause(10*time.Millisecond + time.Duration(u.random.Int64N(int64(think))))
		store := u.n.store()
		if store == nil || u.n.idle.Load() {
			continue // its gateway is down, or has nothing to do
		}
		if err := u.ensureBucket(store); err != nil {
			continue
		}
		u.act(store)
	}
}

func (u *client) ensureBucket(store *multipart.Store) error {
	if u.bucket != (metadata.BucketID(0)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := store.Bucket(ctx, bucketName)
	u.bucket = b.ID
	return err
}

func (u *client) act(store *multipart.Store) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	key := keyName(u.random.IntN(keys))
	if u.eager > 0 {
		key = keyName(0)
	}
	draw := u.random.IntN(100)
	switch {
	case u.reads:
		draw %= 40
	case u.eager > 0:
		draw = eagerDraws[draw%len(eagerDraws)]
	}
	switch {
	case draw < 30:
		u.read(ctx, store, key, "")
	case draw < 40:
		u.list(ctx, store, "")
	case draw < 60:
		u.write(ctx, store, &call{kind: put, key: key}, metadata.If{})
	case draw < 70:
		u.write(ctx, store, &call{kind: create, key: key}, metadata.If{NoneMatch: "*"})
	case draw < 80:
		if u.eager > 0 && u.read(ctx, store, key, "") != nil { // others wrote since
			return
		}
		if expect := u.last[key]; expect != "" {
			u.write(ctx, store, &call{kind: exchange, key: key, expect: expect}, metadata.If{Match: expect})
		}
	case draw < 90:
		u.upload(ctx, store, key)
	default:
		u.delete(ctx, store, key)
	}
}

// body draws bytes that nobody else writes.
func (u *client) body() []byte {
	size := 50 + u.random.IntN(inlineBody)
	if u.chunked || u.random.IntN(5) == 0 && !u.small {
		size = chunkedBody/2 + u.random.IntN(chunkedBody/2)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(u.random.Uint32())
	}
	return b
}

func etagOf(b []byte) string {
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// etagOfUpload is the ETag of an object of these parts.
func etagOfUpload(parts ...[]byte) string {
	all := md5.New()
	for _, p := range parts {
		sum := md5.Sum(p)
		all.Write(sum[:])
	}
	return fmt.Sprintf("%x-%d", all.Sum(nil), len(parts))
}

func (u *client) begin(c *call, request string) {
	c.client, c.where = u.id, u.n.name+request
	u.h.invoke(c)
}

// write puts a body under a condition.
func (u *client) write(ctx context.Context, store *multipart.Store, c *call, cond metadata.If) {
	body := u.body()
	c.value = etagOf(body)
	u.begin(c, "/put")
	v, err := store.Put(ctx, multipart.Put{
		Bucket: u.bucket, Key: c.key, Body: multipart.Body{Reader: bytes.NewReader(body), Size: int64(len(body))}, If: cond,
	})
	u.settle(c, v.ETag, err)
}

// upload makes an object of one part: Complete is the write.
func (u *client) upload(ctx context.Context, store *multipart.Store, key string) {
	body := u.body()
	up, err := store.CreateUpload(ctx, multipart.CreateUpload{Bucket: u.bucket, Key: key})
	if err != nil {
		return
	}
	part, err := store.PutPart(ctx, multipart.PutPart{
		Bucket: u.bucket, Key: key, Upload: up.ID, Number: 1, Body: multipart.Body{Reader: bytes.NewReader(body), Size: int64(len(body))},
	})
	if err != nil {
		return
	}
	c := &call{kind: put, key: key, value: etagOfUpload(body)}
	u.begin(c, "/complete")
	v, err := store.Complete(ctx, metadata.Complete{
		Bucket: u.bucket, Key: key, Upload: up.ID, Parts: []metadata.CompletePart{{Number: 1, ETag: part.ETag}},
	})
	if errors.Is(err, metadata.ErrNoSuchUpload) || errors.Is(err, metadata.ErrInvalidPart) {
		u.h.wrong("client %d at %s: an acknowledged part of an upload to %s is gone: %v", u.id, u.n.name, key, err)
	}
	u.settle(c, v.ETag, err)
}

// settle notes how a write ended.
func (u *client) settle(c *call, etag string, err error) {
	switch {
	case err == nil:
		if etag != c.value {
			u.h.wrong("client %d: a write of %s to %s was answered with %s", u.id, c.value, c.key, etag)
		}
		u.last[c.key] = c.value
		u.h.settle(c, done)
	case errors.Is(err, raft.ErrUnknownOutcome):
		u.h.settle(c, unknown)
	case c.kind != put && (errors.Is(err, metadata.ErrPrecondition) || errors.Is(err, metadata.ErrNoSuchKey)):
		u.h.settle(c, failed)
	case errors.Is(err, chunkstore.ErrSlowDown) && !errors.Is(err, metadata.ErrUnavailable):
		u.h.forget(c) // its bytes found no place, so that it never had a name
	default:
		u.h.settle(c, unknown)
	}
}

func (u *client) delete(ctx context.Context, store *multipart.Store, key string) {
	c := &call{kind: remove, key: key}
	u.begin(c, "/delete")
	d, err := store.Delete(ctx, metadata.Delete{Bucket: u.bucket, Key: key})
	if err != nil {
		u.h.settle(c, unknown)
		return
	}
	c.found = d.Found
	u.h.settle(c, done)
}

// read gets an object and checks its bytes. An error means that nothing was seen.
func (u *client) read(ctx context.Context, store *multipart.Store, key, mark string) error {
	c := &call{kind: get, key: key}
	u.begin(c, "/get"+mark)
	object, err := store.Open(ctx, u.bucket, key, multipart.At{})
	if errors.Is(err, metadata.ErrNoSuchKey) {
		u.last[key] = ""
		u.h.settle(c, done)
		return nil
	}
	if err != nil {
		u.h.forget(c)
		return fmt.Errorf("open %s at %s: %w", key, u.n.name, err)
	}
	v := object.Version()
	c.got, u.last[key] = v.ETag, v.ETag
	u.h.settle(c, done)
	u.h.saw(key, c.got, c.where)
	stream := object.Read(ctx, multipart.Span{Len: -1})
	body, err := io.ReadAll(stream)
	if err = errors.Join(err, stream.Close(), object.Close()); err != nil {
		return fmt.Errorf("read %s (%s, %d bytes) at %s: %w", key, short(v.ETag), v.Size, u.n.name, err)
	}
	if sum := etagOf(body); sum != v.ETag && etagOfUpload(body) != v.ETag {
		u.h.wrong("wrong bytes: %s (%s) at %s reads %d bytes with MD5 %s", key, v.ETag, u.n.name, len(body), sum)
	}
	return nil
}

// list is a get of every key.
func (u *client) list(ctx context.Context, store *multipart.Store, mark string) error {
	calls := map[string]*call{}
	for n := range keys {
		c := &call{kind: get, key: keyName(n)}
		u.begin(c, "/list"+mark)
		calls[c.key] = c
	}
	page, err := store.List(ctx, metadata.List{Bucket: u.bucket, Max: 100})
	if err != nil {
		for _, c := range calls {
			u.h.forget(c)
		}
		return fmt.Errorf("list at %s: %w", u.n.name, err)
	}
	for _, v := range page.Versions {
		if calls[v.Key] == nil {
			u.h.wrong("ghost: LIST at %s shows key %q", u.n.name, v.Key)
			continue
		}
		calls[v.Key].got = v.ETag
		u.h.saw(v.Key, v.ETag, u.n.name+"/list")
	}
	for _, c := range calls {
		u.h.settle(c, done)
	}
	return nil
}
