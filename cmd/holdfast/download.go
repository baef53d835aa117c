package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"
)

// download copies an object to a local file.
func download(from place, file string, info objectInfo) job {
	return job{name: from.String(), size: info.size, run: func(ctx context.Context, t *transfer) error {
		return t.download(ctx, from, file, info)
	}}
}

// download writes beside the target, syncs, and renames: the target is the old file or the whole new one. A symbolic
// link stays and what it leads to is replaced. A device, pipe or socket is written into: renaming would take it away.
func (t *transfer) download(ctx context.Context, from place, target string, info objectInfo) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o777); err != nil {
		return err
	}
	old, err := os.Stat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(target); err == nil {
			return fmt.Errorf("%s is a symbolic link that leads nowhere", target)
		}
		return t.replace(ctx, from, target, 0o666&^umask(), info)
	case err != nil:
		return err
	case old.IsDir():
		return fmt.Errorf("%s is a directory", target)
	case !old.Mode().IsRegular():
		return t.writeInto(ctx, from, target)
	}
	if target, err = filepath.EvalSymlinks(target); err != nil {
		return err
	}
	return t.replace(ctx, from, target, old.Mode().Perm(), info)
}

// writeInto copies the object into something that is there and is no regular file.
func (t *transfer) writeInto(ctx context.Context, from place, target string) error {
	file, err := os.OpenFile(target, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	release, err := t.slot(ctx)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	defer release()
	err = catOne(ctx, t.client, &s3.GetObjectInput{Bucket: &from.bucket, Key: &from.key}, io.MultiWriter(file, t.bar))
	return errors.Join(err, file.Close())
}

// replace makes target the whole object, with the permission bits of mode, in one rename.
func (t *transfer) replace(ctx context.Context, from place, target string, mode os.FileMode, info objectInfo) (err error) {
	dir := filepath.Dir(target)
	beside, err := os.CreateTemp(dir, "."+shortened(filepath.Base(target))+".holdfast-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(beside.Name()))
		}
	}()
	if err := t.fetch(ctx, from, beside, info); err != nil {
		return errors.Join(err, beside.Close())
	}
	// CreateTemp made it 0600.
	if err := beside.Chmod(mode); err != nil {
		return errors.Join(err, beside.Close())
	}
	if err := beside.Sync(); err != nil {
		return errors.Join(err, beside.Close())
	}
	if err := beside.Close(); err != nil {
		return err
	}
	return os.Rename(beside.Name(), target)
}

// shortened leaves room in a file name of at most 255 bytes for what is put around it.
func shortened(name string) string { return name[:min(len(name), 200)] }

// fetch reads the object into file, in parallel ranges where it is large. Every range must be of the same version.
func (t *transfer) fetch(ctx context.Context, from place, file *os.File, info objectInfo) error {
	if info.size <= t.partSize {
		return t.fetchSpan(ctx, from, file, info, 0, info.size)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(t.parallel)
	for off := int64(0); off < info.size && ctx.Err() == nil; off += t.partSize {
		group.Go(func() error { return t.fetchSpan(ctx, from, file, info, off, min(t.partSize, info.size-off)) })
	}
	return group.Wait()
}

func (t *transfer) fetchSpan(ctx context.Context, from place, file *os.File, info objectInfo, off, n int64) error {
	release, err := t.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	input := &s3.GetObjectInput{Bucket: &from.bucket, Key: &from.key}
	if info.etag != "" {
		input.IfMatch = aws.String(`"` + info.etag + `"`)
	}
	if n < info.size {
		input.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	out, err := t.client.GetObject(ctx, input)
	if err != nil {
		return err
	}
	got, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(file, off), t.bar), readerOnly{out.Body})
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes came where %d were expected: %w", got, n, io.ErrUnexpectedEOF)
	}
	return errors.Join(err, out.Body.Close())
}

// streamDownload copies an object to a stream.
func streamDownload(from place, to io.Writer) job {
	return job{name: from.String(), size: -1, run: func(ctx context.Context, t *transfer) error {
		return catOne(ctx, t.client, &s3.GetObjectInput{Bucket: &from.bucket, Key: &from.key}, to)
	}}
}
