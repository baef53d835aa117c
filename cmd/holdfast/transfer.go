package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"
)

// Limits of S3 that shape a transfer, in bytes and parts.
const (
	minPart  = 5 << 20
	maxPart  = 5 << 30
	maxParts = 10_000
	// maxCopy is the largest object that one CopyObject may copy.
	maxCopy = 5 << 30
	// errorsShown is how many failed copies are named before the rest is only counted.
	errorsShown = 20
)

// transfer runs copies in parallel. At most parallel requests are under way, whatever they belong to, so many small
// files and the parts of one large file are equally fast.
type transfer struct {
	client   *s3.Client
	endpoint string // what errors name
	parallel int
	partSize int64
	bar      *progress
	slots    chan struct{}
}

// objectInfo is what a download must know beforehand; the etag holds all of its requests to one version.
type objectInfo struct {
	size int64
	etag string
}

// job is one copy.
type job struct {
	name string
	size int64 // -1 when it is not known
	run  func(context.Context, *transfer) error
}

func newTransfer(client *s3.Client, endpoint string, parallel int, partSize int64, bar *progress) *transfer {
	return &transfer{client: client, endpoint: endpoint, parallel: parallel, partSize: partSize, bar: bar, slots: make(chan struct{}, parallel)}
}

// run runs all jobs. One that fails does not stop the others; what failed is in the error.
func (t *transfer) run(ctx context.Context, jobs []job) error {
	total := int64(0)
	for _, j := range jobs {
		total += max(j.size, 0)
	}
	t.bar.start(len(jobs), total)
	var mu sync.Mutex
	var failures []error
	var group errgroup.Group
	group.SetLimit(t.parallel)
	for _, j := range jobs {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := j.run(ctx, t); err != nil && ctx.Err() == nil {
				mu.Lock()
				failures = append(failures, describe(j.name, s3Error(t.endpoint, err)))
				mu.Unlock()
				return nil
			}
			t.bar.done()
			return nil
		})
	}
	// The functions return nil: failures are gathered apart.
	if err := group.Wait(); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(failures) > errorsShown:
		more := len(failures) - errorsShown
		failures = append(failures[:errorsShown], fmt.Errorf("and %d more of %d copies failed", more, len(jobs)))
	}
	return errors.Join(failures...)
}

// slot waits for the right to send one request; the caller calls what it returns when the request is over.
func (t *transfer) slot(ctx context.Context) (release func(), err error) {
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *transfer) head(ctx context.Context, p place) (objectInfo, error) {
	out, err := t.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &p.bucket, Key: &p.key})
	if err != nil {
		return objectInfo{}, err
	}
	return objectInfo{size: aws.ToInt64(out.ContentLength), etag: unquote(out.ETag)}, nil
}

// partFor is the part size for an object: the one asked for, or larger where 10,000 parts would not be enough.
func (t *transfer) partFor(size int64) int64 {
	part := t.partSize
	if least := (size + maxParts - 1) / maxParts; least > part {
		part = (least + 1<<20 - 1) &^ (1<<20 - 1)
	}
	return part
}

// planUploads lists the files of a path. Only regular files can become objects; symbolic links below a directory are
// not followed, and everything else is an error that says so.
func planUploads(source string, target place, recursive bool) ([]job, error) {
	info, err := os.Stat(source)
	if err != nil {
		if !strings.ContainsAny(source, "/") {
			err = fmt.Errorf("%w; an object is written BUCKET/KEY or hf://BUCKET/KEY", err)
		}
		return nil, err
	}
	if !info.IsDir() {
		return []job{upload(source, named(target, filepath.Base(source)), info.Size())}, nil
	}
	if !recursive {
		return nil, usageError(errors.New("is a directory; copy it with -r"))
	}
	var jobs []job
	err = filepath.WalkDir(source, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(source, file)
		if err != nil {
			return err
		}
		to, err := below(target, filepath.ToSlash(relative))
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			jobs = append(jobs, failing(file, fmt.Errorf("is no regular file (%v) and was not copied", info.Mode().Type())))
			return nil
		}
		jobs = append(jobs, upload(file, to, info.Size()))
		return nil
	})
	return jobs, err
}

func failing(name string, err error) job {
	return job{name: name, run: func(context.Context, *transfer) error { return err }}
}

func makeDirectory(dir string) job {
	return job{name: dir, run: func(context.Context, *transfer) error { return os.MkdirAll(dir, 0o777) }}
}

func isDirectory(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// readerOnly hides everything but Read, so that nothing is written around the progress bar.
type readerOnly struct{ io.Reader }
