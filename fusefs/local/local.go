// Package local is a bucket as the tree of a mount sees it, in the process of the object store itself: tree.Objects
// over multipart.Store. Gateways serve mounts through it (package remote), and tests mount it directly.
//
//	tree.Objects ─ keys below a prefix, attributes, pieces ─ local ─ versions, compositions, stages ─ multipart.Store
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// Config says which part of the store is shown.
type Config struct {
	Store  *multipart.Store
	Bucket metadata.BucketID
	// Prefix begins every key; it is empty or ends with "/". Keys of Objects stand behind it.
	Prefix string
	// Session owns uploads and stages: when it ends, stages are published and uploads aborted. It must be open;
	// EndSession closes it. Its writes are numbered by tree.WithOp or else by the Store; one session does not mix them.
	Session uint64
}

// Objects implements tree.Objects, tree.Looker and tree.Ender. It holds nothing beside its session.
type Objects struct {
	store   *multipart.Store
	bucket  metadata.BucketID
	prefix  string
	session uint64
}

var (
	_ tree.Objects = (*Objects)(nil)
	_ tree.Looker  = (*Objects)(nil)
	_ tree.Ender   = (*Objects)(nil)
)

// New returns the objects of a bucket below a prefix.
func New(c Config) (*Objects, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("local objects need a store")
	case c.Session == 0:
		return nil, errors.New("local objects need a session")
	case c.Prefix != "" && !strings.HasSuffix(c.Prefix, "/"):
		return nil, fmt.Errorf("prefix %q does not end with a slash", c.Prefix)
	}
	return &Objects{store: c.Store, bucket: c.Bucket, prefix: c.Prefix, session: c.Session}, nil
}

func (o *Objects) key(key string) string { return o.prefix + key }

// op numbers a write: as the mount numbered it, so that a repeated request is applied once, else by the Store.
func (o *Objects) op(ctx context.Context) metadata.Op {
	if op, ok := tree.OpFrom(ctx); ok {
		return metadata.Op{Session: o.session, Seq: op.Seq}
	}
	// Numbers of a mount's session are the mount's alone: one of another row of numbers in between would take the slot
	// of a later write, which would then be refused as forgotten. The catalog numbers this write in its own session.
	return metadata.Op{}
}

// numbered gives the mount's number to the one write of names that a call with this context makes.
func (o *Objects) numbered(ctx context.Context) context.Context {
	if op := o.op(ctx); op != (metadata.Op{}) {
		return metadata.WithOp(ctx, op)
	}
	return ctx
}

// EndSession implements tree.Ender: it closes the session, which publishes its stages and aborts its uploads.
func (o *Objects) EndSession(ctx context.Context) error {
	return translate(o.store.CloseSession(ctx, o.session))
}

// Stat implements tree.Objects.
func (o *Objects) Stat(ctx context.Context, key string) (tree.Info, error) {
	if key == "" && o.prefix == "" {
		return tree.Info{}, tree.ErrNotExist
	}
	v, err := o.store.Current(ctx, o.bucket, o.key(key))
	if err != nil {
		return tree.Info{}, translate(err)
	}
	return o.info(&v), nil
}

// Look implements tree.Looker.
func (o *Objects) Look(ctx context.Context, key string) (tree.Found, error) {
	looked, err := o.store.Look(ctx, o.bucket, o.key(key))
	if err != nil {
		return tree.Found{}, translate(err)
	}
	found := tree.Found{Dir: looked.Below}
	if looked.Object != nil {
		info := o.info(looked.Object)
		found.File = &info
	}
	if looked.Marker != nil {
		info := o.info(looked.Marker)
		found.Marker = &info
	}
	return found, nil
}

// List implements tree.Objects.
func (o *Objects) List(ctx context.Context, prefix, after string, max int) (tree.Listing, error) {
	l := metadata.List{Bucket: o.bucket, Prefix: o.key(prefix), Delimiter: "/", Max: max}
	if after != "" {
		l.After = o.key(after)
	}
	page, err := o.store.List(ctx, l)
	if err != nil {
		return tree.Listing{}, translate(err)
	}
	listing := tree.Listing{Truncated: page.Truncated}
	if page.Truncated {
		listing.Next = strings.TrimPrefix(page.Next, o.prefix)
	}
	for i := range page.Versions {
		listing.Entries = append(listing.Entries, o.info(&page.Versions[i]))
	}
	for _, p := range page.Prefixes {
		listing.Prefixes = append(listing.Prefixes, strings.TrimPrefix(p, o.prefix))
	}
	return listing, nil
}

// Exists implements tree.Objects.
func (o *Objects) Exists(ctx context.Context, prefix string) (bool, error) {
	ok, err := o.store.HasPrefix(ctx, o.bucket, o.key(prefix))
	return ok, translate(err)
}

// Open implements tree.Objects.
func (o *Objects) Open(ctx context.Context, key string, version tree.Version) (tree.Reader, error) {
	id, err := metadata.ParseVersionID(string(version))
	if err != nil {
		return nil, fmt.Errorf("version %q: %w", version, tree.ErrNotExist)
	}
	object, err := o.store.Open(ctx, o.bucket, o.key(key), multipart.At{Version: &id})
	if err != nil {
		return nil, translate(err)
	}
	v := object.Version()
	return &reader{object: object, info: o.info(&v)}, nil
}

// reader is an open version. tree.Reader has no context, so its reads live until Close.
type reader struct {
	object multipart.Object
	info   tree.Info

	mu     sync.Mutex
	closed bool
	reads  sync.WaitGroup
}

func (r *reader) Info() tree.Info { return r.info }

func (r *reader) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("read %q after its close: %w", r.info.Key, tree.ErrBadHandle)
	}
	r.reads.Add(1)
	return nil
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.begin(); err != nil {
		return 0, err
	}
	defer r.reads.Done()
	return readAt(p, off, r.info.Size, func(span multipart.Span) (io.ReadCloser, error) {
		return r.object.Read(context.Background(), span), nil
	})
}

// Stream gives n bytes from off, which lie in the version, piece by piece.
func (r *reader) Stream(off, n int64) (io.ReadCloser, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	return &stream{body: r.object.Read(context.Background(), multipart.Span{Off: off, Len: n}), done: sync.OnceFunc(r.reads.Done)}, nil
}

// stream is a read of an open version that is under way until Close.
type stream struct {
	body io.ReadCloser
	done func()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = translate(err)
	}
	return n, err
}

func (s *stream) Close() error {
	defer s.done()
	return translate(s.body.Close())
}

// Close waits for the reads that are under way.
func (r *reader) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	r.reads.Wait()
	return translate(r.object.Close())
}

// readAt fills p from off of something of size bytes, as io.ReaderAt says.
func readAt(p []byte, off, size int64, open func(multipart.Span) (io.ReadCloser, error)) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, tree.ErrInvalid)
	}
	n := min(int64(len(p)), size-off)
	if n <= 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	body, err := open(multipart.Span{Off: off, Len: n})
	if err != nil {
		return 0, translate(err)
	}
	got, err := io.ReadFull(body, p[:n])
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return got, translate(err)
	}
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

// Space implements tree.Objects.
func (o *Objects) Space(ctx context.Context) (tree.Space, error) {
	space, err := o.store.Space(ctx)
	if err != nil {
		return tree.Space{}, translate(err)
	}
	usage, err := o.store.Usage(ctx, o.bucket)
	if err != nil {
		return tree.Space{}, translate(err)
	}
	return tree.Space{Total: space.Total, Free: space.Free, Objects: usage.Objects}, nil
}
