package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	blockMagic  = "HFCKPTB1"
	blockHeader = 80
	// blockTarget is the payload after which a block is closed; maxBlock bounds what a reader believes: a target
	// and one key with its value.
	blockTarget = 1 << 20
	maxBlock    = blockTarget + 16<<20
	lastBlock   = 1 // flag
)

var errBlock = errors.New("checkpoint block is damaged")

// encodeBlock seals a payload as block index of a checkpoint; the digest covers the block before too.
func encodeBlock(id cluster.ClusterID, number, index uint64, last bool, prev digest, payload []byte) ([]byte, digest) {
	buf := make([]byte, 0, blockHeader+len(payload))
	buf = append(buf, blockMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	flags := uint32(0)
	if last {
		flags = lastBlock
	}
	buf = binary.LittleEndian.AppendUint32(buf, flags)
	buf = binary.LittleEndian.AppendUint64(buf, number)
	buf = binary.LittleEndian.AppendUint64(buf, index)
	buf = append(buf, id[:]...)
	sum := blockDigest(prev, buf, payload)
	buf = append(buf, sum[:]...)
	return append(buf, payload...), sum
}

func blockDigest(prev digest, header, payload []byte) digest {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(header)
	h.Write(payload)
	var sum digest
	h.Sum(sum[:0])
	return sum
}

// block is a decoded block.
type block struct {
	raw     []byte
	payload []byte
	last    bool
	digest  digest
}

// readBlock reads block index at an offset of one copy.
func readBlock(file vfs.File, off int64, id cluster.ClusterID, number, index uint64, prev digest) (block, error) {
	head := make([]byte, blockHeader)
	if n, err := file.ReadAt(head, off); n < len(head) {
		return block{}, errors.Join(errBlock, err)
	}
	length := binary.LittleEndian.Uint32(head[8:])
	if string(head[:8]) != blockMagic || length > maxBlock || cluster.ClusterID(head[32:48]) != id ||
		binary.LittleEndian.Uint64(head[16:]) != number || binary.LittleEndian.Uint64(head[24:]) != index {
		return block{}, errBlock
	}
	raw := append(head, make([]byte, length)...)
	if n, err := file.ReadAt(raw[blockHeader:], off+blockHeader); n < int(length) {
		return block{}, errors.Join(errBlock, err)
	}
	b := block{raw: raw, payload: raw[blockHeader:], last: binary.LittleEndian.Uint32(raw[12:])&lastBlock != 0, digest: digest(raw[48:80])}
	if blockDigest(prev, raw[:48], b.payload) != b.digest {
		return block{}, errBlock
	}
	return b, nil
}

func decodePair(data []byte) (key, value, rest []byte, err error) {
	if len(data) < 8 {
		return nil, nil, nil, errBlock
	}
	k, v := int64(binary.LittleEndian.Uint32(data)), int64(binary.LittleEndian.Uint32(data[4:]))
	if 8+k+v > int64(len(data)) {
		return nil, nil, nil, errBlock
	}
	return data[8 : 8+k], data[8+k : 8+k+v], data[8+k+v:], nil
}

// pairs iterates over spans of a snapshot and calls visit with full blocks of pairs.
func pairs(r kv.Reader, spans []kv.Span, visit func(payload []byte) error) error {
	var payload []byte
	for _, span := range spans {
		it := r.Iterate(span)
		for it.Next() {
			payload = binary.LittleEndian.AppendUint32(payload, uint32(len(it.Key())))
			payload = binary.LittleEndian.AppendUint32(payload, uint32(len(it.Value())))
			payload = append(append(payload, it.Key()...), it.Value()...)
			if len(payload) < blockTarget {
				continue
			}
			if err := visit(payload); err != nil {
				it.Close()
				return err
			}
			payload = payload[:0]
		}
		err := it.Err()
		it.Close()
		if err != nil {
			return err
		}
	}
	return visit(payload) // the last block, which may be empty
}
