package root

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/cluster/kv"
)

// remembered is how many commands of changes the machine remembers. A command is repeated for about 15 s (the patience
// of a Router and its last attempt), so this is enough at 1,000 changes a second, and takes about 1 MB.
const remembered = 1 << 14

// What became of a command, in the state. Numbers are promises on disk.
const (
	becameDone     = 1
	becameConflict = 2
)

// recall tells what became of a command that was applied before.
//
// The revisions of rows are not enough to know a repeated command again. Its rows may have been changed or removed since
// by others: then it would fail though it was made, or worse, make a row again that was removed (a token that was used),
// or remove one that was made anew with the same revision. A refused command is remembered too, so that an attempt that
// comes late is not applied after its caller was told of the conflict.
func recall(r kv.Reader, nonce []byte) (became error, known bool) {
	v, err := r.Get(nonceKey(nonce))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, false
	case err != nil:
		panic(fmt.Sprintf("root: read nonce %x: %v", nonce, err))
	case bytes.Equal(v, []byte{becameDone}):
		return nil, true
	case bytes.Equal(v, []byte{becameConflict}):
		return ErrConflict, true
	}
	panic(fmt.Sprintf("root: nonce %x has the value %x", nonce, v))
}

// remember notes what became of a command, in the place of the oldest one.
func remember(r kv.Reader, b kv.Batch, nonce []byte, err error) {
	countKey := []byte{prefix, orderSpace}
	count := numberAt(r, countKey)
	place := binary.BigEndian.AppendUint16(bytes.Clone(countKey), uint16(count%remembered))
	oldest, readErr := r.Get(place)
	switch {
	case readErr == nil:
		b.Delete(nonceKey(oldest))
	case !errors.Is(readErr, kv.ErrNotFound):
		panic(fmt.Sprintf("root: read the oldest nonce: %v", readErr))
	}
	became := byte(becameDone)
	if err != nil {
		became = becameConflict
	}
	b.Put(place, bytes.Clone(nonce))
	b.Put(nonceKey(nonce), []byte{became})
	b.Put(countKey, binary.BigEndian.AppendUint64(nil, count+1))
}

func nonceKey(nonce []byte) []byte { return append([]byte{prefix, nonceSpace}, nonce...) }
