package local

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// nameUpload writes an upload's name: its id and the key in the bucket that it was begun with, which an open file may
// leave when it is renamed. Keys are any bytes, names are text.
func nameUpload(key string, id metadata.UploadID) tree.Upload {
	return tree.Upload(id.String() + "." + base64.RawURLEncoding.EncodeToString([]byte(key)))
}

func parseUpload(up tree.Upload) (string, metadata.UploadID, error) {
	text, encoded, _ := strings.Cut(string(up), ".")
	id, err := metadata.ParseUploadID(text)
	var key []byte
	if err == nil {
		key, err = base64.RawURLEncoding.DecodeString(encoded)
	}
	if err != nil {
		return "", id, fmt.Errorf("upload %q: %w", up, tree.ErrInvalid)
	}
	return string(key), id, nil
}

// begun is parseUpload for callers that must know the key.
func (o *Objects) begun(key string, up tree.Upload) (string, metadata.UploadID, error) {
	began, id, err := parseUpload(up)
	if err == nil && began != o.key(key) {
		err = fmt.Errorf("upload of %q named with key %q: %w", began, o.key(key), tree.ErrInvalid)
	}
	return began, id, err
}

// Begin implements tree.Objects.
func (o *Objects) Begin(ctx context.Context, key string) (tree.Upload, error) {
	u, err := o.store.CreateUpload(ctx, multipart.CreateUpload{
		Bucket: o.bucket, Key: o.key(key), Internal: true, Op: o.op(ctx),
	})
	if err != nil {
		return "", translate(err)
	}
	return nameUpload(o.key(key), u.ID), nil
}

// Part implements tree.Objects.
func (o *Objects) Part(ctx context.Context, key string, up tree.Upload, n int, body io.ReadSeeker, size int64) error {
	began, id, err := o.begun(key, up)
	if err != nil {
		return err
	}
	_, err = o.store.PutPart(ctx, multipart.PutPart{
		Bucket: o.bucket, Key: began, Upload: id, Number: n, Body: multipart.Body{Reader: body, Size: size}, Op: o.op(ctx),
	})
	return translate(err)
}

// ReadPart implements tree.Objects.
func (o *Objects) ReadPart(ctx context.Context, key string, up tree.Upload, n int, p []byte, off int64) (int, error) {
	began, id, err := o.begun(key, up)
	if err != nil {
		return 0, err
	}
	part, err := o.store.Part(ctx, o.bucket, began, id, n)
	if errors.Is(err, metadata.ErrInvalidPart) {
		return 0, fmt.Errorf("part %d: %w", n, tree.ErrNotExist)
	}
	if err != nil {
		return 0, translate(err)
	}
	return readAt(p, off, part.Size, func(span multipart.Span) (io.ReadCloser, error) {
		return o.store.ReadPart(ctx, &part, span)
	})
}

// Abort implements tree.Objects. An upload that a stage still needs is left to the end of the session, which publishes
// the stage first.
func (o *Objects) Abort(ctx context.Context, key string, up tree.Upload) error {
	began, id, err := o.begun(key, up)
	if err != nil {
		return err
	}
	stages, err := o.store.Staged(ctx)
	if err != nil {
		return translate(err)
	}
	for i := range stages {
		if stages[i].Put.Bucket == o.bucket && stages[i].Put.AdoptsOf == id && len(stages[i].Put.Adopts) > 0 {
			return nil
		}
	}
	return translate(o.store.Abort(o.numbered(ctx), o.bucket, began, id))
}

// condition translates a Cond.
func condition(c tree.Cond) (metadata.If, error) {
	if c.Base == "" {
		return metadata.If{NoBase: c.Absent}, nil
	}
	id, err := metadata.ParseVersionID(string(c.Base))
	if err != nil {
		return metadata.If{}, fmt.Errorf("base version %q: %w", c.Base, tree.ErrConflict) // no store made it
	}
	return metadata.If{Base: id, NoBase: c.Absent}, nil
}

// meta is what the new version of a file says beside its bytes. What a mount does not know of an object (content type
// and the like, tags) goes on from the version that is replaced.
func (o *Objects) meta(ctx context.Context, f *tree.File, cond metadata.If) (multipart.Meta, error) {
	attr, user := splitAttr(&f.Attr)
	m := multipart.Meta{Attr: &attr, User: user, Modified: f.Attr.Mtime}
	if cond.Base.IsZero() {
		return m, nil
	}
	base, err := o.store.Version(ctx, o.bucket, o.key(f.Key), cond.Base)
	if errors.Is(err, metadata.ErrNoSuchVersion) || errors.Is(err, metadata.ErrNoSuchKey) {
		return m, fmt.Errorf("base version %v of %q: %w", cond.Base, f.Key, tree.ErrConflict)
	}
	if err != nil {
		return m, translate(err)
	}
	m.Headers, m.Tags = base.Headers, base.Tags
	return m, nil
}

// small says that a file's content comes with it.
func small(f *tree.File) bool { return f.Pieces == nil }

func (o *Objects) put(ctx context.Context, f *tree.File, cond metadata.If, m multipart.Meta) multipart.Put {
	return multipart.Put{
		Bucket: o.bucket, Key: o.key(f.Key), Meta: m, If: cond, Op: o.op(ctx),
		Body: multipart.Body{Reader: bytes.NewReader(f.Data), Size: int64(len(f.Data))},
	}
}

func (o *Objects) compose(ctx context.Context, f *tree.File, cond metadata.If, m multipart.Meta) (multipart.Compose, error) {
	c := multipart.Compose{Bucket: o.bucket, Key: o.key(f.Key), Meta: m, If: cond, Op: o.op(ctx)}
	for _, p := range f.Pieces {
		c.Pieces = append(c.Pieces, multipart.Piece(p))
	}
	if f.Upload == "" {
		return c, nil
	}
	var err error
	c.UploadKey, c.Upload, err = parseUpload(f.Upload)
	return c, err
}

func (o *Objects) stageKey(inode uint64) metadata.StageKey {
	return metadata.StageKey{Session: o.session, Inode: inode}
}

// Stage implements tree.Objects.
func (o *Objects) Stage(ctx context.Context, f tree.File) error {
	cond, err := condition(f.Cond)
	if err != nil {
		return err
	}
	m, err := o.meta(ctx, &f, cond)
	if err != nil {
		return err
	}
	if small(&f) {
		err = o.store.StagePut(ctx, o.stageKey(f.Inode), o.put(ctx, &f, cond, m))
		return published(err, f.Cond)
	}
	c, err := o.compose(ctx, &f, cond, m)
	if err != nil {
		return err
	}
	return published(o.store.Stage(ctx, o.stageKey(f.Inode), c), f.Cond)
}

// Discard implements tree.Objects.
func (o *Objects) Discard(ctx context.Context, _ string, inode uint64) error {
	return translate(o.store.Discard(o.numbered(ctx), o.stageKey(inode)))
}

// Publish implements tree.Objects.
func (o *Objects) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	info, err := o.publish(ctx, f)
	if errors.Is(err, tree.ErrConflict) || errors.Is(err, tree.ErrExists) {
		if before, ok := o.publishedBefore(ctx, f.Key); ok {
			return before, nil
		}
	}
	return info, err
}

// never is a condition that no version meets.
var never = metadata.If{Match: "no ETag"}

// publishedBefore finds the version that an earlier try of the same publish made, whose answer was lost. A repetition may
// come to a conflict before it comes to the commit that would know it: what it is based on was replaced, and the bytes of
// its parts belong to another version, that very one. So a commit is asked that can only answer what was answered before.
func (o *Objects) publishedBefore(ctx context.Context, key string) (tree.Info, bool) {
	op := o.op(ctx)
	if op == (metadata.Op{}) {
		return tree.Info{}, false
	}
	v, err := o.store.Put(ctx, multipart.Put{Bucket: o.bucket, Key: o.key(key), If: never, Op: op})
	if err == nil {
		v, err = o.store.Version(ctx, o.bucket, o.key(key), v.ID)
	}
	if err != nil {
		return tree.Info{}, false
	}
	return o.info(&v), true
}

func (o *Objects) publish(ctx context.Context, f tree.File) (tree.Info, error) {
	cond, err := condition(f.Cond)
	if err != nil {
		return tree.Info{}, err
	}
	m, err := o.meta(ctx, &f, cond)
	if err != nil {
		return tree.Info{}, err
	}
	var v metadata.Version
	if small(&f) {
		p := o.put(ctx, &f, cond, m)
		p.Unstage = o.stageKey(f.Inode)
		v, err = o.store.Put(ctx, p)
	} else {
		var c multipart.Compose
		if c, err = o.compose(ctx, &f, cond, m); err != nil {
			return tree.Info{}, err
		}
		c.Unstage = o.stageKey(f.Inode)
		v, err = o.store.Compose(ctx, c)
	}
	if err != nil {
		return tree.Info{}, published(err, f.Cond)
	}
	return o.info(&v), nil
}

// SetAttr implements tree.Objects.
func (o *Objects) SetAttr(ctx context.Context, key string, version tree.Version, a tree.Attr) (tree.Info, error) {
	id, err := metadata.ParseVersionID(string(version))
	if err != nil {
		return tree.Info{}, fmt.Errorf("version %q: %w", version, tree.ErrConflict)
	}
	attr, user := splitAttr(&a)
	v, err := o.store.SetFile(ctx, o.bucket, o.key(key), id, attr, user, o.op(ctx))
	if err != nil {
		return tree.Info{}, translate(err)
	}
	return o.info(&v), nil
}

// Rename implements tree.Objects.
func (o *Objects) Rename(ctx context.Context, from, to string, noReplace bool) (tree.Info, error) {
	v, err := o.store.Rename(ctx, metadata.Rename{
		Bucket: o.bucket, From: o.key(from), To: o.key(to), NoReplace: noReplace, Op: o.op(ctx),
	})
	if err != nil {
		return tree.Info{}, translate(err)
	}
	return o.info(&v), nil
}

// RenamePrefix implements tree.Objects.
func (o *Objects) RenamePrefix(ctx context.Context, from, to string) error {
	return translate(o.store.RenamePrefix(o.numbered(ctx), o.bucket, o.key(from), o.key(to)))
}

// Remove implements tree.Objects. In a versioned bucket it leaves a delete marker, but none where there was nothing.
func (o *Objects) Remove(ctx context.Context, key string, empty bool) error {
	_, err := o.store.Delete(ctx, metadata.Delete{
		Bucket: o.bucket, Key: o.key(key), If: metadata.If{Match: "*"}, Empty: empty, Op: o.op(ctx),
	})
	if !errors.Is(err, metadata.ErrPrecondition) {
		return translate(err)
	}
	if empty { // a directory without a marker
		below, err := o.Exists(ctx, key)
		if err != nil {
			return err
		}
		if below {
			return fmt.Errorf("remove %q: %w", key, tree.ErrDirNotEmpty)
		}
	}
	return fmt.Errorf("remove %q: %w", key, tree.ErrNotExist)
}
