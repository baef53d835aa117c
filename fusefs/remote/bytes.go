package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/tree"
)

// errAnswer is an answer that does not come from the mount service.
var errAnswer = errors.New("unexpected answer")

// answerError is the error that an answer for bytes tells of; nil for a good one.
func answerError(res *http.Response) error {
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNoContent {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	said := strings.TrimSpace(string(text))
	if known := named(res.Header.Get(headerError), said); known != nil {
		return known
	}
	if res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("gateway: %s: %w", said, tree.ErrAccess)
	}
	if res.StatusCode < 500 {
		return fmt.Errorf("gateway: %s: %s: %w", res.Status, said, tree.ErrIO)
	}
	return fmt.Errorf("%w: %s: %s", errAnswer, res.Status, said) // tried again
}

// Part implements tree.Objects.
func (c *Client) Part(ctx context.Context, key string, up tree.Upload, n int, body io.ReadSeeker, size int64) error {
	sum := crc32.New(castagnoli)
	if got, err := io.Copy(sum, body); err != nil || got != size {
		return fmt.Errorf("part of %d bytes has %d: %w", size, got, errors.Join(err, tree.ErrInvalid))
	}
	at, ok := body.(io.ReaderAt)
	if !ok {
		return fmt.Errorf("a part must be readable at any offset: %w", tree.ErrInvalid)
	}
	// With a number of its own a request that arrives late, after its repetition was answered, changes nothing: by then the
	// part may have other bytes.
	q := url.Values{
		"session": {c.session}, "key": {key}, "upload": {string(up)}, "n": {strconv.Itoa(n)}, "seq": {strconv.FormatUint(c.nextSeq(), 10)},
	}
	return c.repeat(ctx, func(ctx context.Context, to *stay) error {
		// A reader of its own for each attempt: the transport may still read the body of the last one.
		body := &sending{r: io.NewSectionReader(at, 0, size), to: to}
		defer body.end()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, to.base+pathPart+"?"+q.Encode(), body)
		if err != nil {
			return err
		}
		req.ContentLength = size
		if size == 0 {
			req.Body = http.NoBody
		}
		req.Header.Set(headerCRC, crcText(sum.Sum32()))
		res, err := c.http.Do(req)
		if err != nil {
			return err
		}
		return errors.Join(answerError(res), res.Body.Close())
	})
}

// sending is the body of one attempt. Each byte that goes out is a sign of the gateway. Once the attempt has ended
// nothing is read any more: its caller may use the memory for other bytes.
type sending struct {
	to *stay

	mu    sync.Mutex
	r     io.Reader
	ended bool
}

func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, errLeft
	}
	s.to.hear()
	return s.r.Read(p)
}

// Close implements io.Closer for the transport.
func (s *sending) Close() error {
	s.end()
	return nil
}

func (s *sending) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// hearing is the body of an answer.
type hearing struct {
	io.Reader
	from *stay
}

func (h hearing) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.from.hear()
	}
	return n, err
}

// fetch reads up to len(p) bytes; fewer come with io.EOF.
func (c *Client) fetch(ctx context.Context, path string, q func() url.Values, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		want := min(len(p)-done, maxRead)
		n, again := 0, false
		err := c.repeat(ctx, func(ctx context.Context, from *stay) (err error) {
			v := q()
			if !again {
				v.Set(askSum, sumLast) // which tells of an error in the middle by its end alone
			}
			again = true
			v.Set("session", c.session)
			v.Set("off", strconv.FormatInt(off+int64(done), 10))
			v.Set("len", strconv.Itoa(want))
			n, err = c.get(ctx, from, path+"?"+v.Encode(), p[done:done+want])
			return err
		})
		if err != nil {
			return done, err
		}
		done += n
		if n < want {
			return done, io.EOF
		}
	}
	return done, nil
}

func (c *Client) get(ctx context.Context, from *stay, path string, p []byte) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.base+path, nil)
	if err != nil {
		return 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if err := answerError(res); err != nil {
		return 0, err
	}
	length, want := res.ContentLength, res.Header.Get(headerCRC)
	if want == sumLast {
		length -= sumSize
	}
	if length < 0 || length > int64(len(p)) {
		return 0, fmt.Errorf("%w: %d bytes for %d", errAnswer, res.ContentLength, len(p))
	}
	n = int(length)
	body := hearing{res.Body, from}
	sum, err := readSummed(body, p[:n])
	if err != nil {
		return 0, err
	}
	if want == sumLast {
		var last [sumSize]byte
		if _, err := io.ReadFull(body, last[:]); err != nil {
			return 0, err
		}
		want = crcText(binary.LittleEndian.Uint32(last[:]))
	}
	if got := crcText(sum); got != want {
		return 0, fmt.Errorf("%w: body has CRC32C %s, not %s", errAnswer, got, want)
	}
	return n, nil
}

// readSummed fills p, and gives its CRC32C.
func readSummed(r io.Reader, p []byte) (sum uint32, err error) {
	for len(p) > 0 {
		n, err := io.ReadFull(r, p[:min(len(p), piece)])
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, p[:n])
		p = p[n:]
	}
	return sum, nil
}

// ReadPart implements tree.Objects.
func (c *Client) ReadPart(ctx context.Context, key string, up tree.Upload, n int, p []byte, off int64) (int, error) {
	return c.fetch(ctx, pathPart, func() url.Values {
		return url.Values{"key": {key}, "upload": {string(up)}, "n": {strconv.Itoa(n)}}
	}, p, off)
}

// reader is one version, held open at the gateway, or all of it when it is small.
type reader struct {
	client *Client
	key    string
	info   tree.Info
	head   []byte

	// reopening is held while the version is opened again, at another gateway or after this one forgot it (I/O).
	reopening sync.Mutex
	id        uint64
}

// Open implements tree.Objects.
func (c *Client) Open(ctx context.Context, key string, version tree.Version) (tree.Reader, error) {
	res, err := c.openReader(ctx, key, version)
	if err != nil {
		return nil, err
	}
	r := &reader{client: c, key: key, info: infoFrom(res.GetInfo()), head: res.GetHead(), id: res.GetReader()}
	if r.id == 0 && int64(len(r.head)) != r.info.Size {
		return nil, fmt.Errorf("%w: %d of %d bytes: %w", errAnswer, len(r.head), r.info.Size, tree.ErrIO)
	}
	return r, nil
}

func (c *Client) openReader(ctx context.Context, key string, version tree.Version) (*mountpb.OpenReaderResponse, error) {
	return call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.OpenReaderResponse], error) {
		return s.OpenReader(ctx, connect.NewRequest(&mountpb.OpenReaderRequest{
			Session: c.session, Key: []byte(key), Version: string(version),
		}))
	})
}

// Info implements tree.Reader.
func (r *reader) Info() tree.Info { return r.info }

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, tree.ErrInvalid
	}
	if off >= r.info.Size {
		return 0, io.EOF
	}
	if r.id == 0 {
		n := copy(p, r.head[off:])
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	short := int64(len(p)) > r.info.Size-off
	p = p[:min(int64(len(p)), r.info.Size-off)]
	began, done := time.Now(), 0
	for attempt := 1; ; attempt++ {
		id := r.current()
		n, err := r.client.fetch(r.client.lifetime, pathRead, func() url.Values {
			return url.Values{"reader": {strconv.FormatUint(id, 10)}}
		}, p[done:], off+int64(done))
		done += n
		// Gateways may change again and again.
		if errors.Is(err, errNoReader) && (attempt <= maxLost || time.Since(began) < r.client.config.Retry) {
			if err := r.reopen(id); err != nil {
				return done, err
			}
			continue
		}
		if err == nil && short {
			err = io.EOF
		}
		return done, err
	}
}

func (r *reader) current() uint64 {
	r.reopening.Lock()
	defer r.reopening.Unlock()
	return r.id
}

// reopen takes the version up again.
func (r *reader) reopen(was uint64) error {
	r.reopening.Lock()
	defer r.reopening.Unlock()
	if r.id != was {
		return nil
	}
	res, err := r.client.openReader(r.client.lifetime, r.key, r.info.Version)
	if err != nil {
		return fmt.Errorf("open version again: %w", err)
	}
	r.id = res.GetReader()
	return nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	id := r.current()
	if id == 0 {
		return nil
	}
	// Not under the lifetime: that may have ended, and the gateway would hold the version until the session ends.
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	_, err := call(ctx, r.client, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.CloseReader(ctx, connect.NewRequest(&mountpb.CloseReaderRequest{Session: r.client.session, Reader: id}))
	})
	return err
}
