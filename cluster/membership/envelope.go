package membership

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// What memberlist 0.7 sends, as far as it must be known to refuse the rest.
const (
	kindIndirectPing = 1
	kindAck          = 2
	kindDead         = 5
	kindPushPull     = 6
	kindCompound     = 7
	kindSealed       = 10
	kindNack         = 11
	kindSummed       = 12
	kindError        = 13
	kindLabel        = 244

	sealedVersion = 1 // AES-GCM without padding
	nonceSize     = 12
	sealOverhead  = 1 + nonceSize + 16
)

// streamLimit is the longest message of a stream: the states of about 6,000 members, each 512 bytes of data and some
// 150 around it. More is read from nobody, since the length comes before the proof that the sender has a key.
const streamLimit = 4 << 20

// unprovenLimit is how much is held of all streams together whose senders have not proven that they have a key, those
// that ask and those that answer apart: with what buffers grow by, at most twice as many bytes of memory. Room is taken for a block at a time, as it arrives.
const (
	unprovenLimit = 16 << 20
	unprovenBlock = 64 << 10
)

// refusal is why a packet or a stream was dropped; none means that it was not.
type refusal int

const (
	none refusal = iota
	wrongLabel
	wrongKey
	malformed
	replayed
	busy
	refusals // how many there are
)

func (r refusal) Error() string {
	return [...]string{"taken", "of another cluster", "not sealed with a key of the ring", "malformed", "seen before", "too many at once"}[r]
}

// envelope opens what came from outside.
type envelope struct {
	label string
	ring  *ring
	seen  nonces
	// What is held of streams that are not opened yet. Strangers who ask take no room from those who answer.
	asking, answering room
}

// room is how many bytes are held, rounded up to blocks.
type room struct{ held atomic.Int64 }

// packet judges one datagram: label, sealed message.
func (e *envelope) packet(buf []byte) refusal {
	label, sealed, ok := cutLabel(buf)
	if !ok {
		return malformed
	}
	if label != e.label {
		return wrongLabel
	}
	return e.judge(sealed, []byte(label), packetKind)
}

func cutLabel(buf []byte) (label string, rest []byte, ok bool) {
	if len(buf) < 2 || buf[0] != kindLabel || len(buf) < 2+int(buf[1]) {
		return "", nil, false
	}
	return string(buf[2 : 2+int(buf[1])]), buf[2+int(buf[1]):], true
}

// request reads the one message of a stream that a peer opened and returns its bytes, label and all. It returns io.EOF
// when the stream ended before its first byte.
func (e *envelope) request(from io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(from, head[:1]); err != nil {
		return nil, err
	}
	if head[0] != kindLabel {
		return nil, malformed
	}
	if err := read(from, head[1:]); err != nil {
		return nil, err
	}
	label := make([]byte, head[1])
	if err := read(from, label); err != nil {
		return nil, err
	}
	if string(label) != e.label {
		return nil, wrongLabel
	}
	body, err := e.message(from, &e.asking)
	if err == io.EOF {
		return nil, malformed
	}
	return append(append(head[:], label...), body...), err
}

// read fills buf; a stream that ends before is malformed.
func read(from io.Reader, buf []byte) error {
	_, err := io.ReadFull(from, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return malformed
	}
	return err
}

// answer reads the one message that comes back on a stream. It has no label of its own, but is sealed with it. It returns
// io.EOF when nothing came back.
func (e *envelope) answer(from io.Reader) ([]byte, error) { return e.message(from, &e.answering) }

func (e *envelope) message(from io.Reader, in *room) ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(from, head[:1]); err != nil {
		return nil, err
	}
	if head[0] != kindSealed {
		return nil, wrongKey
	}
	if err := read(from, head[1:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > streamLimit {
		return nil, malformed
	}
	body, held, err := in.read(from, head[:], int(size))
	defer in.held.Add(-held)
	if err != nil {
		return nil, err
	}
	bound := append(head[:5:5], e.label...)
	if why := e.judge(body[5:], bound, streamKind); why != none {
		return nil, why
	}
	return body, nil
}

// read reads so many bytes behind the head, and returns both. The buffer grows with what arrives, not with what was
// announced. The caller gives back what is held.
func (r *room) read(from io.Reader, head []byte, size int) (body []byte, held int64, err error) {
	buffer := bytes.NewBuffer(head)
	for size > 0 {
		held += unprovenBlock
		if r.held.Add(unprovenBlock) > unprovenLimit {
			return nil, held, busy
		}
		block := min(size, unprovenBlock)
		if _, err := io.CopyN(buffer, from, int64(block)); err == io.EOF {
			return nil, held, malformed
		} else if err != nil {
			return nil, held, err
		}
		size -= block
	}
	return buffer.Bytes(), held, nil
}

// judge opens a sealed message, bound to the given bytes, and looks whether it is new and of a kind that is sent.
func (e *envelope) judge(sealed, bound []byte, fits func([]byte) bool) refusal {
	if len(sealed) == 0 {
		return malformed
	}
	if sealed[0] != sealedVersion {
		return wrongKey
	}
	if len(sealed) < sealOverhead {
		return malformed
	}
	nonce := sealed[1 : 1+nonceSize]
	for _, s := range e.ring.sealers() {
		plain, err := s.aead.Open(nil, nonce, sealed[1+nonceSize:], bound)
		if err != nil {
			continue
		}
		if !fits(plain) {
			return malformed
		}
		if !e.seen.add([nonceSize]byte(nonce)) {
			return replayed
		}
		return none
	}
	return wrongKey
}

// packetKind says whether a datagram holds what peers send: one small message or several, perhaps with a checksum.
// Compressed messages are not sent and not unpacked, wherever they hide.
func packetKind(plain []byte) bool {
	if len(plain) >= 5 && plain[0] == kindSummed {
		if crc32.ChecksumIEEE(plain[5:]) != binary.BigEndian.Uint32(plain[1:5]) {
			return false
		}
		plain = plain[5:]
	}
	if len(plain) == 0 || plain[0] != kindCompound {
		return smallKind(plain)
	}
	if len(plain) < 2 || len(plain) < 2+2*int(plain[1]) {
		return false
	}
	lengths, parts := plain[2:2+2*int(plain[1])], plain[2+2*int(plain[1]):]
	for ; len(lengths) > 0; lengths = lengths[2:] {
		size := int(binary.BigEndian.Uint16(lengths))
		if size > len(parts) || !smallKind(parts[:size]) {
			return false
		}
		parts = parts[size:]
	}
	return true
}

// smallKind: ping, indirect ping, ack, suspect, alive, dead (0 to 5), nack.
func smallKind(plain []byte) bool {
	return len(plain) > 0 && (plain[0] <= kindDead || plain[0] == kindNack)
}

// streamKind: push/pull, ping by stream, its ack, an error.
func streamKind(plain []byte) bool {
	if len(plain) == 0 {
		return false
	}
	switch plain[0] {
	case 0, kindAck, kindPushPull, kindError:
		return true
	}
	return false
}

// noncesKept is how many nonces each of two generations holds: hours of gossip in a quiet cluster, about 2 MB in all.
const noncesKept = 1 << 15

// nonces remembers what was opened. Only holders of a key can fill it.
type nonces struct {
	mu         sync.Mutex
	young, old map[[nonceSize]byte]struct{}
}

// add returns false when the nonce is remembered.
func (n *nonces) add(nonce [nonceSize]byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.young[nonce]; ok {
		return false
	}
	if _, ok := n.old[nonce]; ok {
		return false
	}
	if n.young == nil || len(n.young) >= noncesKept {
		n.young, n.old = map[[nonceSize]byte]struct{}{}, n.young
	}
	n.young[nonce] = struct{}{}
	return true
}

// refused tells a refusal from another error.
func refused(err error) (refusal, bool) {
	var why refusal
	ok := errors.As(err, &why)
	return why, ok
}
