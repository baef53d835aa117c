package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

const (
	// The magic of a block is that of its payload: only the first block of a file may have another than blockMagic.
	blockMagic    = "HFCKPTB1" // pairs, or the head of a checkpoint of replicas that began with their peer
	headMagic     = "HFCKPTB2" // the head of a checkpoint with replicas that were created, or removed, at run time
	snapshotMagic = "HFSNAPB1" // the head of a snapshot of one group

	blockHeader = 80
	// blockTarget is the payload after which a block is closed; maxBlock bounds what a reader believes: a target
	// and one key with its value.
	blockTarget = 1 << 20
	maxBlock    = blockTarget + 16<<20
	lastBlock   = 1 // flag
)

var errBlock = errors.New("checkpoint block is damaged")

// blockAt is where a block belongs: the cluster, the number of its file and its index there.
type blockAt struct {
	cluster       cluster.ClusterID
	number, index uint64
}

// encodeBlock seals a payload; the digest covers the block before too.
func encodeBlock(at blockAt, magic string, last bool, prev digest, payload []byte) ([]byte, digest) {
	buf := make([]byte, 0, blockHeader+len(payload))
	buf = append(buf, magic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	flags := uint32(0)
	if last {
		flags = lastBlock
	}
	buf = binary.LittleEndian.AppendUint32(buf, flags)
	buf = binary.LittleEndian.AppendUint64(buf, at.number)
	buf = binary.LittleEndian.AppendUint64(buf, at.index)
	buf = append(buf, at.cluster[:]...)
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
	magic   string
	raw     []byte
	payload []byte
	last    bool
	digest  digest
}

// readBlock reads the block of a place from one copy.
func readBlock(r io.Reader, at blockAt, prev digest) (block, error) {
	head := make([]byte, blockHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return block{}, errors.Join(errBlock, err)
	}
	magic, length := string(head[:8]), binary.LittleEndian.Uint32(head[8:])
	known := magic == blockMagic || at.index == 0 && (magic == headMagic || magic == snapshotMagic)
	if !known || length > maxBlock || cluster.ClusterID(head[32:48]) != at.cluster ||
		binary.LittleEndian.Uint64(head[16:]) != at.number || binary.LittleEndian.Uint64(head[24:]) != at.index {
		return block{}, errBlock
	}
	raw := append(head, make([]byte, length)...)
	if _, err := io.ReadFull(r, raw[blockHeader:]); err != nil {
		return block{}, errors.Join(errBlock, err)
	}
	b := block{magic: magic, raw: raw, payload: raw[blockHeader:], last: binary.LittleEndian.Uint32(raw[12:])&lastBlock != 0, digest: digest(raw[48:80])}
	if blockDigest(prev, raw[:48], b.payload) != b.digest {
		return block{}, errBlock
	}
	return b, nil
}

// blockFile names a file of blocks on a drive: a checkpoint, or a snapshot of one group.
type blockFile struct {
	dir, suffix string
	number      uint64
}

func checkpointFile(number uint64) blockFile {
	return blockFile{checkpointDir, checkpointSuffix, number}
}

func snapshotFile(number uint64) blockFile { return blockFile{snapshotDir, snapshotSuffix, number} }

func (d *drive) blockPath(f blockFile) string {
	return fmt.Sprintf("%s%s/%016x%s", d.dir, f.dir, f.number, f.suffix)
}

// temporaryPath is where a file of blocks is written before it gets its name. One checkpoint is written at a time.
func (d *drive) temporaryPath(f blockFile) string {
	if f.dir == checkpointDir {
		return d.dir + checkpointDir + "/new" + temporarySuffix
	}
	return fmt.Sprintf("%s%s/%016x%s", d.dir, f.dir, f.number, temporarySuffix)
}

// readBlocks reads a file block by block, each from any member that has it whole, and tells which copies are hurt as far
// as it looked: with every it looks at all copies, else only until a whole block is found.
func (l *mirroredLog) readBlocks(drives []*drive, name blockFile, every bool, visit func(index uint64, b block) error) (hurt []*drive, err error) {
	files := make([]vfs.File, len(drives))
	defer func() {
		for _, f := range files {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	bad, tried := make([]bool, len(drives)), make([]bool, len(drives))
	// A copy is opened when it is needed: a drive may hang.
	open := func(i int) vfs.File {
		if !tried[i] {
			tried[i] = true
			file, err := drives[i].fs.OpenFile(drives[i].blockPath(name), os.O_RDONLY, 0)
			if files[i] = file; err != nil {
				files[i], bad[i] = nil, true
			}
		}
		return files[i]
	}
	var prev digest
	off := int64(0)
	for index := uint64(0); ; index++ {
		var found *block
		for i := range drives {
			if found != nil && !every {
				break
			}
			f := open(i)
			if f == nil {
				continue
			}
			b, err := readBlock(io.NewSectionReader(f, off, blockHeader+maxBlock), blockAt{l.cluster, name.number, index}, prev)
			if err != nil {
				bad[i] = true
			} else if found == nil {
				found = &b
			}
		}
		if found == nil {
			return nil, fmt.Errorf("%w: block %d of %s/%d is whole on none of %d mirrors", ErrLogDamaged, index, name.dir, name.number, len(drives))
		}
		if err := visit(index, *found); err != nil {
			return nil, err
		}
		prev, off = found.digest, off+int64(len(found.raw))
		if found.last {
			break
		}
	}
	for i, d := range drives {
		if bad[i] {
			hurt = append(hurt, d)
		}
	}
	return hurt, nil
}

// putPairs puts the pairs of a block's payload into a batch.
func putPairs(b kv.Batch, payload []byte) error {
	for rest := payload; len(rest) > 0; {
		key, value, after, err := decodePair(rest)
		if err != nil {
			return err
		}
		b.Put(key, value)
		rest = after
	}
	return nil
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

// checkPairs tells whether a payload is whole pairs, none of which is a row of the driver's own.
func checkPairs(payload []byte) error {
	for len(payload) > 0 {
		key, _, rest, err := decodePair(payload)
		if err != nil || len(key) == 0 || key[0] == 0 {
			return errors.Join(errBlock, err)
		}
		payload = rest
	}
	return nil
}

// pairs iterates over spans of a snapshot and calls visit with full blocks of pairs.
func pairs(r kv.Reader, spans []kv.Span, visit func(payload []byte) error) error {
	source := pairSource{reader: r, spans: spans}
	defer source.close()
	for {
		payload, err := source.next()
		if err == nil && len(payload) > 0 {
			err = visit(payload)
		}
		if err != nil || len(payload) == 0 {
			return err
		}
	}
}

// pairSource gathers the pairs of spans into blocks.
type pairSource struct {
	reader  kv.Reader
	spans   []kv.Span
	it      kv.Iterator // of the span before spans; nil for none
	payload []byte
}

// next returns the next pairs, none after the last. They are valid until the next call.
func (s *pairSource) next() ([]byte, error) {
	s.payload = s.payload[:0]
	for len(s.payload) < blockTarget {
		if s.it == nil {
			if len(s.spans) == 0 {
				break
			}
			s.it, s.spans = s.reader.Iterate(s.spans[0]), s.spans[1:]
		}
		if s.it.Next() {
			s.payload = binary.LittleEndian.AppendUint32(s.payload, uint32(len(s.it.Key())))
			s.payload = binary.LittleEndian.AppendUint32(s.payload, uint32(len(s.it.Value())))
			s.payload = append(append(s.payload, s.it.Key()...), s.it.Value()...)
			continue
		}
		err := s.it.Err()
		s.close()
		if err != nil {
			return nil, err
		}
	}
	return s.payload, nil
}

func (s *pairSource) close() {
	if s.it != nil {
		s.it.Close()
		s.it = nil
	}
}
