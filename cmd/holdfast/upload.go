package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// abortDeadline is how long a failed upload may take to give its parts back.
const abortDeadline = 10 * time.Second

// upload copies a local file to an object.
func upload(file string, to place, size int64) job {
	return job{name: file, size: size, run: func(ctx context.Context, t *transfer) error { return t.upload(ctx, file, to) }}
}

func (t *transfer) upload(ctx context.Context, name string, to place) (err error) {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= t.partSize {
		return t.putWhole(ctx, to, file, info.Size())
	}
	part := t.partFor(info.Size())
	return t.multipart(ctx, to, func(ctx context.Context, group *errgroup.Group, put putPart) error {
		for n, off := int32(1), int64(0); off < info.Size(); n, off = n+1, off+part {
			section := io.NewSectionReader(file, off, min(part, info.Size()-off))
			group.Go(func() error { return put(ctx, n, section, section.Size()) })
		}
		return nil
	})
}

func (t *transfer) putWhole(ctx context.Context, to place, body io.ReadSeeker, size int64) error {
	release, err := t.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	_, err = t.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &to.bucket, Key: &to.key, Body: body, ContentLength: &size, ContentType: contentType(to.key),
	})
	if err == nil {
		t.bar.add(size)
	}
	return err
}

// contentType guesses from the key's extension, nil when it says nothing.
func contentType(key string) *string {
	guess := mime.TypeByExtension(path.Ext(key))
	if guess == "" {
		return nil
	}
	return &guess
}

// putPart sends one part. It may be called concurrently.
type putPart func(ctx context.Context, number int32, body io.ReadSeeker, size int64) error

// multipart runs an upload: feed starts its parts in group. A failed one is aborted, so it leaves nothing behind.
func (t *transfer) multipart(ctx context.Context, to place, feed func(context.Context, *errgroup.Group, putPart) error) error {
	begun, err := t.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &to.bucket, Key: &to.key, ContentType: contentType(to.key), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var parts []types.CompletedPart
	put := func(ctx context.Context, number int32, body io.ReadSeeker, size int64) error {
		release, err := t.slot(ctx)
		if err != nil {
			return err
		}
		defer release()
		out, err := t.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId, PartNumber: &number, Body: body, ContentLength: &size,
			ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
		})
		if err != nil {
			return err
		}
		t.bar.add(size)
		mu.Lock()
		defer mu.Unlock()
		parts = append(parts, types.CompletedPart{ETag: out.ETag, PartNumber: &number, ChecksumCRC32: out.ChecksumCRC32})
		return nil
	}
	group, partCtx := errgroup.WithContext(ctx)
	group.SetLimit(t.parallel)
	err = errors.Join(feed(partCtx, group, put), group.Wait())
	if err == nil {
		_, err = t.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: ascending(parts)},
		})
	}
	if err == nil {
		return nil
	}
	// The upload is given up also when ctx has ended: then just so.
	abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortDeadline)
	defer cancel()
	if _, abortErr := t.client.AbortMultipartUpload(abort, &s3.AbortMultipartUploadInput{
		Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId,
	}); abortErr != nil {
		return fmt.Errorf("%w (and its parts could not be given back: %w)", err, abortErr)
	}
	return err
}

// ascending orders parts by number: they finish in any order.
func ascending(parts []types.CompletedPart) []types.CompletedPart {
	ordered := make([]types.CompletedPart, len(parts))
	for _, p := range parts {
		ordered[aws.ToInt32(p.PartNumber)-1] = p
	}
	return ordered
}

// streamUpload copies a stream of unknown length. It holds at most parallel+1 parts in memory.
func streamUpload(from io.Reader, to place) job {
	return job{name: "standard input", size: -1, run: func(ctx context.Context, t *transfer) error {
		return t.uploadStream(ctx, readerOnly{from}, to)
	}}
}

func (t *transfer) uploadStream(ctx context.Context, from io.Reader, to place) error {
	first := make([]byte, t.partSize)
	n, err := io.ReadFull(from, first)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return t.putWhole(ctx, to, bytes.NewReader(first[:n]), int64(n))
	case err != nil:
		return err
	}
	return t.multipart(ctx, to, func(ctx context.Context, group *errgroup.Group, put putPart) error {
		group.SetLimit(t.parallel)
		part, size := first, t.partSize
		for number := int32(1); ; number++ {
			if number > maxParts {
				return fmt.Errorf("the stream is longer than %d parts; use a larger --part-size", maxParts)
			}
			body := part
			group.Go(func() error { return put(ctx, number, bytes.NewReader(body), int64(len(body))) })
			// Parts grow, so that a stream of 5 TiB fits into 10,000 of them.
			if number%1000 == 0 {
				size *= 2
			}
			part = make([]byte, size)
			n, err := io.ReadFull(from, part)
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case errors.Is(err, io.ErrUnexpectedEOF):
				last := part[:n]
				group.Go(func() error { return put(ctx, number+1, bytes.NewReader(last), int64(len(last))) })
				return nil
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			}
		}
	})
}

// remoteCopy copies an object inside the store: by reference, no byte moves.
func remoteCopy(from, to place, info objectInfo) job {
	return job{name: from.String(), size: info.size, run: func(ctx context.Context, t *transfer) error {
		return t.copyRemote(ctx, from, to, info)
	}}
}

func (t *transfer) copyRemote(ctx context.Context, from, to place, info objectInfo) error {
	source := url.PathEscape(from.bucket) + "/" + strings.ReplaceAll(url.PathEscape(from.key), "%2F", "/")
	release, err := t.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	if info.size <= maxCopy {
		_, err := t.client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &to.bucket, Key: &to.key, CopySource: &source})
		if err == nil {
			t.bar.add(info.size)
		}
		return err
	}
	return t.copyParts(ctx, source, to, info)
}

// copyParts copies an object that is too large for one CopyObject, 5 GiB a part.
func (t *transfer) copyParts(ctx context.Context, source string, to place, info objectInfo) error {
	begun, err := t.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &to.bucket, Key: &to.key})
	if err != nil {
		return err
	}
	var parts []types.CompletedPart
	for n, off := int32(1), int64(0); off < info.size; n, off = n+1, off+maxCopy {
		last := min(off+maxCopy, info.size) - 1
		out, err := t.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId, PartNumber: &n, CopySource: &source,
			CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", off, last)), CopySourceIfMatch: aws.String(`"` + info.etag + `"`),
		})
		if err != nil {
			abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortDeadline)
			defer cancel()
			_, abortErr := t.client.AbortMultipartUpload(abort, &s3.AbortMultipartUploadInput{Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId})
			return errors.Join(err, abortErr)
		}
		parts = append(parts, types.CompletedPart{ETag: out.CopyPartResult.ETag, PartNumber: &n})
		t.bar.add(last + 1 - off)
	}
	_, err = t.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &to.bucket, Key: &to.key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}
