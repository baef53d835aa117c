package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/wire"
)

// HandlerOptions says how the drives of this peer are served. The zero HandlerOptions serves anybody's cluster zero.
type HandlerOptions struct {
	// Cluster is the cluster of the drives; callers of another one are refused with ErrForeign.
	Cluster cluster.ClusterID
	// Memory bounds the bytes of shards on their way in and out, all calls together. A call that finds no room for
	// Silence is refused with ErrDriveDown. Zero means 64 MiB, some 60 shards of the longest kind.
	Memory int64
	// Silence is how long a caller may neither send nor take a byte before its call is ended. Zero means 5 s.
	Silence time.Duration
	// Allow says whether who makes the call of this context may change the shards of a volume; nil allows everybody
	// everything. It may take a while: the bytes of a put arrive meanwhile. What it refuses it wraps in ErrNotEntitled,
	// and any other error says that it cannot tell, which refuses the call too.
	Allow func(ctx context.Context, volume chunkstore.VolumeID, change Change) error
	// Refusals, when not nil, counts.
	Refusals *Refusals
}

// Change is what a call does to the shards of a volume.
type Change uint8

// The changes.
const (
	Put Change = iota
	Delete
	Seal
)

// String is the name of the call.
func (c Change) String() string { return [...]string{"put", "delete", "seal"}[c] }

// Refusals counts the calls that were refused for what they are, by reason.
type Refusals struct {
	// NotEntitled are changes of volumes that are another peer's, Stale those with an epoch that the drive has sealed,
	// Foreign calls for another cluster or drive, Protocol what is no call, or one under the path of another.
	NotEntitled, Stale, Foreign, Protocol atomic.Uint64
}

func (r *Refusals) count(cause error) {
	if r == nil {
		return
	}
	for reason, counter := range map[error]*atomic.Uint64{
		ErrNotEntitled: &r.NotEntitled, chunkstore.ErrStaleVolume: &r.Stale, ErrForeign: &r.Foreign, ErrProtocol: &r.Protocol,
	} {
		if errors.Is(cause, reason) {
			counter.Add(1)
		}
	}
}

// The defaults of Options and HandlerOptions.
const (
	// defaultSilence is longer than a loaded device takes to sync, and shorter than a person waits.
	defaultSilence = 5 * time.Second
	defaultMemory  = 64 << 20
)

// Handler serves the drives that the function drives finds, under Prefix. It authenticates nobody: that is for the listener.
// The http.Server may use HTTP/1.1 or HTTP/2 (see TuneServer) and should have no ReadTimeout and no WriteTimeout: each
// call ends by itself when its caller neither sends nor takes a byte.
func Handler(drives func(cluster.DriveID) (chunkstore.Drive, bool), o HandlerOptions) http.Handler {
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	if o.Silence == 0 {
		o.Silence = defaultSilence
	}
	return &handler{drives: drives, options: o, memory: newPool(o.Memory), boot: rand.Uint64()}
}

type handler struct {
	drives  func(cluster.DriveID) (chunkstore.Drive, bool)
	options HandlerOptions
	memory  *pool
	boot    uint64 // tells the reports of this start from those of another
	seq     atomic.Uint64
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, Prefix)
	if !ok || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	x := &exchange{handler: h, w: w, r: r, control: http.NewResponseController(w), begun: time.Now()}
	x.watch = wire.NewWatch(h.options.Silence, x.hangUp)
	defer x.watch.End()
	x.body = x.watch.Reader(r.Body)
	if err := x.serve(name); err != nil {
		// Part of an answer may be out. Cutting the connection keeps the caller from taking it for the whole.
		panic(http.ErrAbortHandler)
	}
}

// exchange is one call that is served.
type exchange struct {
	handler *handler
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	watch   *wire.Watch
	body    io.Reader
	drive   chunkstore.Drive
	caller  caller

	begun   time.Time
	alive   time.Time // when the last sign of life was sent
	started bool      // some of the answer was sent
	frame   []byte    // memory of the frames that are sent
}

// past is a deadline that ends what is under way.
var past = time.Unix(1, 0)

// hangUp ends the reads and writes of a call whose caller is silent. A server that knows no deadlines has only the
// request's own end.
func (x *exchange) hangUp() {
	_ = x.control.SetReadDeadline(past)
	_ = x.control.SetWriteDeadline(past)
}

// serve does one call. An error means that it could not be answered.
func (x *exchange) serve(name string) error {
	// A caller that sends slowly is told that its bytes arrive, while it still sends.
	if err := x.control.EnableFullDuplex(); err != nil {
		return err
	}
	f := frames{r: x.body}
	k, body, err := f.next()
	if err == nil && k.String() != name {
		err = fmt.Errorf("%v under the path of %s: %w", k, name, ErrProtocol)
	}
	if err != nil {
		return x.refuse(err)
	}
	r := &reader{b: body}
	x.caller = r.caller()
	if r.failed {
		return x.refuse(r.end("request"))
	}
	if err := x.find(); err != nil {
		return x.refuse(err)
	}
	if k == kindPut {
		return x.put(r)
	}
	if err := x.expectEnd(); err != nil {
		return x.refuse(err)
	}
	x.watch.Pause() // from here on it is the drive that is waited for
	return x.call(k, r)
}

// find looks for the drive that the caller means.
func (x *exchange) find() error {
	if x.caller.cluster != x.handler.options.Cluster {
		return fmt.Errorf("call of cluster %v: %w", x.caller.cluster, ErrForeign)
	}
	d, ok := x.handler.drives(x.caller.drive)
	if !ok {
		return fmt.Errorf("drive %v is not here: %w", x.caller.drive, ErrForeign)
	}
	x.drive = d
	return nil
}

// expectEnd reads the end of the request. Only then does the server notice a caller that goes away.
func (x *exchange) expectEnd() error {
	var probe [1]byte
	n, err := io.ReadFull(x.body, probe[:])
	switch {
	case n > 0:
		return fmt.Errorf("request is longer than its message: %w", ErrProtocol)
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// refuse answers a request that was not read to its end. What is left of it is read first, as much as a request may
// have: a caller that is still sending would else see its connection break instead of the answer.
func (x *exchange) refuse(cause error) error {
	if _, err := io.CopyN(io.Discard, x.body, maxShard+maxFrame+frameHead); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return x.answer(cause, nil)
}

func (x *exchange) call(k kind, r *reader) error {
	ctx, d := x.r.Context(), x.drive
	switch k {
	case kindHeader:
		return x.header(ctx, r)
	case kindRead:
		return x.read(ctx, r)
	case kindShards:
		return x.shards(ctx, r)
	case kindVolumes:
		return x.volumes(ctx, r)
	case kindDelete:
		keys, err := decodeKeys(r)
		if err == nil {
			err = x.mayDelete(ctx, keys)
		}
		if err == nil {
			err = d.Delete(ctx, keys)
		}
		return x.answer(err, nil)
	case kindSeal:
		volume, epoch := chunkstore.VolumeID(r.u64()), cluster.Epoch(r.u64())
		err := r.end("seal")
		if err == nil {
			err = x.may(ctx, volume, Seal)
		}
		if err == nil {
			err = d.Seal(ctx, volume, epoch)
		}
		return x.answer(err, nil)
	case kindCheck:
		key := r.key()
		err := r.end("check")
		if err == nil {
			err = d.Check(ctx, key)
		}
		return x.answer(err, nil)
	case kindStatus:
		return x.answer(r.end("status"), nil)
	}
	return x.answer(fmt.Errorf("%v is no call: %w", k, ErrProtocol), nil)
}

// may says whether the caller may change a volume.
func (x *exchange) may(ctx context.Context, volume chunkstore.VolumeID, change Change) error {
	allow := x.handler.options.Allow
	if allow == nil {
		return nil
	}
	if err := allow(ctx, volume, change); err != nil {
		return fmt.Errorf("%v in volume %d: %w", change, volume, down(err))
	}
	return nil
}

// mayDelete asks for each volume once. Keys of one stand together.
func (x *exchange) mayDelete(ctx context.Context, keys []chunkstore.ShardKey) error {
	for i, key := range keys {
		if i > 0 && key.Volume == keys[i-1].Volume {
			continue
		}
		if err := x.may(ctx, key.Volume, Delete); err != nil {
			return err
		}
	}
	return nil
}

// decodeKeys reads the shards of a delete.
func decodeKeys(r *reader) ([]chunkstore.ShardKey, error) {
	n := int(r.u16())
	if n > maxKeys || len(r.b) != n*keySize {
		return nil, fmt.Errorf("delete of %d shards in %d bytes: %w", n, len(r.b), ErrProtocol)
	}
	keys := make([]chunkstore.ShardKey, n)
	for i := range keys {
		keys[i] = r.key()
	}
	return keys, r.end("delete")
}

// answer ends a call with what came of it and, on success, a message.
func (x *exchange) answer(cause error, message []byte) error {
	x.frame = x.appendAnswer(x.frame[:0], cause, message)
	x.announce(len(x.frame))
	return x.finish(x.frame)
}

// announce tells how long the whole answer is, where that is known before any of it is sent.
func (x *exchange) announce(n int) {
	if !x.started {
		x.w.Header().Set("Content-Length", strconv.Itoa(n))
	}
}

// finish sends the last bytes of an answer. They are flushed here, where the caller is watched, and not after.
func (x *exchange) finish(b []byte) error {
	if err := x.send(b); err != nil {
		return err
	}
	return x.flush()
}

// appendAnswer appends the frame of an answer to b.
func (x *exchange) appendAnswer(b []byte, cause error, message []byte) []byte {
	a := answer{fault: faultOf(cause)}
	if cause != nil {
		a.text, message = cause.Error(), nil
		x.handler.options.Refusals.count(cause)
	}
	if x.drive != nil {
		// The number is taken before the status, so that the highest one knows of all that was done before it.
		seq := x.handler.seq.Add(1)
		a.report = &report{boot: x.handler.boot, seq: seq, status: x.drive.Status()}
	}
	from := len(b)
	return endFrame(append(appendAnswer(beginFrame(b), a), message...), from, kindAnswer)
}

// writeStep is how much is written before the caller counts as alive again: a record of TLS, so it costs nothing. A caller
// that takes less than that in HandlerOptions.Silence is too slow.
const writeStep = 16 << 10

// shortStep is how much shorter the first step is. Pieces are multiples of a step: so the last one is short, and the
// connection below, which sends full records together, sees that nothing follows.
const shortStep = 1 << 10

// send writes bytes of an answer, watched.
func (x *exchange) send(b []byte) error {
	if !x.started {
		x.w.Header().Set("Content-Type", contentType)
		x.started = true
	}
	x.watch.Moved()
	defer x.watch.Pause()
	for step := writeStep - shortStep; len(b) > 0; step = writeStep {
		n, err := x.w.Write(b[:min(len(b), step)])
		if err != nil {
			return err
		}
		x.watch.Moved()
		b = b[n:]
	}
	return nil
}

// flush sends on its way what was written.
func (x *exchange) flush() error {
	x.watch.Moved()
	defer x.watch.Pause()
	return x.control.Flush()
}

// signsPerSilence is how many signs of life a caller that sends slowly gets in the time after which it gives up.
const signsPerSilence = 4

// showAlive sends a sign of life when a caller has been sending for long: its bytes may all lie in buffers on the way,
// where it sees nothing move until the answer comes.
func (x *exchange) showAlive() error {
	if x.alive.IsZero() {
		x.alive = x.begun
	}
	if x.caller.silence == 0 || time.Since(x.alive) < x.caller.silence/signsPerSilence {
		return nil
	}
	x.alive = time.Now()
	if err := x.send(endFrame(beginFrame(nil), 0, kindAlive)); err != nil {
		return err
	}
	if err := x.flush(); err != nil {
		return err
	}
	x.watch.Moved() // bytes are still to come
	return nil
}

func (x *exchange) header(ctx context.Context, r *reader) error {
	key := r.key()
	err := r.end("header")
	if err != nil {
		return x.answer(err, nil)
	}
	h, err := x.drive.Header(ctx, key)
	if err != nil {
		return x.answer(err, nil)
	}
	return x.answer(nil, appendHeader(nil, h))
}
