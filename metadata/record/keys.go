package record

import (
	"encoding/binary"
	"errors"
)

// Families of rows: the first byte of a key. The capital letters belong to the root group.
const (
	FamilyCurrent  = 'c' // current live objects
	FamilyBody     = 'e' // bodies that overflow their record
	FamilyFreed    = 'g' // freed chunks, by the time from which they may go
	FamilyNull     = 'n' // where the null version is, if it is not current
	FamilyParts    = 'p' // parts
	FamilyResult   = 'q' // results of completed uploads
	FamilyLocal    = 'r' // rows of the tablet itself
	FamilyRows     = 't' // opaque rows: volumes, repair intents
	FamilyUploads  = 'u' // headers of uploads under way
	FamilyVersions = 'v' // noncurrent versions and all delete markers, newest first
	FamilyWaiting  = 'w' // freed chunks that only sweep may delete
)

// Kinds of tablet-local rows: the second byte of a key of FamilyLocal.
const (
	LocalBucket  = 'b' // bucket id: Bucket
	LocalClock   = 'k' // the logical clock's high-water
	LocalSlot    = 'd' // session, slot: the Result of a write
	LocalFence   = 'f' // session: fenced; session 0: all below the value
	LocalHold    = 'h' // bucket, lineage, session, inode: a reader or a stage needs that lineage
	LocalUsage   = 'n' // bucket id: Usage
	LocalOwned   = 'o' // session, kind, …: what ends with a session
	LocalStage   = 's' // session, inode: Stage
	LocalRename  = 'm' // bucket id, key: Rename
	LocalExpires = 'x' // time, key of a result row: when it goes
)

// ErrKey says that a key is not one that this package writes.
var ErrKey = errors.New("malformed row key")

// idSize is the length of a version id in keys, where it is descending, so that the newest comes first.
const idSize = 12

// AppendEscaped appends an object key so that byte order is kept and no key is a prefix of another: 0x00 becomes
// 0x00 0xff, and 0x00 0x01 ends it.
func AppendEscaped(b []byte, key string) []byte {
	for i := 0; i < len(key); i++ {
		b = append(b, key[i])
		if key[i] == 0 {
			b = append(b, 0xff)
		}
	}
	return append(b, 0, 1)
}

// AppendEscapedPrefix appends a prefix of object keys, without the end mark.
func AppendEscapedPrefix(b []byte, prefix string) []byte {
	b = AppendEscaped(b, prefix)
	return b[:len(b)-2]
}

// Unescape reads an escaped object key and returns what follows it.
func Unescape(b []byte) (key string, rest []byte, err error) {
	// Keys with a zero byte are rare: the common case is one copy.
	for i := 0; i+1 < len(b); i++ {
		if b[i] != 0 {
			continue
		}
		if b[i+1] == 1 {
			return string(b[:i]), b[i+2:], nil
		}
		return unescapeSlow(b)
	}
	return "", nil, ErrKey
}

func unescapeSlow(b []byte) (string, []byte, error) {
	key := make([]byte, 0, len(b))
	for i := 0; i+1 < len(b); i++ {
		if b[i] != 0 {
			key = append(key, b[i])
			continue
		}
		switch b[i+1] {
		case 0xff:
			key = append(key, 0)
			i++
		case 1:
			return string(key), b[i+2:], nil
		default:
			return "", nil, ErrKey
		}
	}
	return "", nil, ErrKey
}

// BucketPrefix is the prefix of a bucket's rows in a family.
func BucketPrefix(family byte, bucket uint64) []byte {
	b := make([]byte, 9, 64)
	b[0] = family
	binary.BigEndian.PutUint64(b[1:], bucket)
	return b
}

// KeyRow is the row of an object key in a routed family (current, null), or the prefix of its rows in the others.
func KeyRow(family byte, bucket uint64, key string) []byte {
	b := make([]byte, 9, 9+len(key)+2+24)
	b[0] = family
	binary.BigEndian.PutUint64(b[1:], bucket)
	return AppendEscaped(b, key)
}

// PrefixRows is the prefix of the rows of all object keys that begin with prefix.
func PrefixRows(family byte, bucket uint64, prefix string) []byte {
	return AppendEscapedPrefix(BucketPrefix(family, bucket), prefix)
}

// SplitKeyRow reads bucket and object key of a row of a routed family, and returns what follows them.
func SplitKeyRow(row []byte) (bucket uint64, key string, rest []byte, err error) {
	if len(row) < 9 {
		return 0, "", nil, ErrKey
	}
	key, rest, err = Unescape(row[9:])
	return binary.BigEndian.Uint64(row[1:9]), key, rest, err
}

// AppendID appends a version id in descending order.
func AppendID(b []byte, clock uint64, random uint32) []byte {
	b = binary.BigEndian.AppendUint64(b, ^clock)
	return binary.BigEndian.AppendUint32(b, ^random)
}

// ParseID reads what AppendID wrote.
func ParseID(b []byte) (clock uint64, random uint32, err error) {
	if len(b) != idSize {
		return 0, 0, ErrKey
	}
	return ^binary.BigEndian.Uint64(b), ^binary.BigEndian.Uint32(b[8:]), nil
}

// VersionRow is the row of one version in family v or e.
func VersionRow(family byte, bucket uint64, key string, clock uint64, random uint32) []byte {
	return AppendID(KeyRow(family, bucket, key), clock, random)
}

// UploadRow is the row of an upload in family u or q, or the prefix of its rows in family p. Older uploads come first.
func UploadRow(family byte, bucket uint64, key string, id *UploadID) []byte {
	b := KeyRow(family, bucket, key)
	b = binary.BigEndian.AppendUint64(b, id.GetClock())
	return binary.BigEndian.AppendUint64(b, id.GetRandom())
}

// ParseUploadID reads the id at the end of an upload's row and returns what follows it.
func ParseUploadID(b []byte) (*UploadID, []byte, error) {
	if len(b) < 16 {
		return nil, nil, ErrKey
	}
	return &UploadID{Clock: binary.BigEndian.Uint64(b), Random: binary.BigEndian.Uint64(b[8:])}, b[16:], nil
}

// PartRow is the row of one part.
func PartRow(bucket uint64, key string, id *UploadID, number int) []byte {
	return binary.BigEndian.AppendUint16(UploadRow(FamilyParts, bucket, key, id), uint16(number))
}

// ParsePartNumber reads what follows the upload id in a part's row.
func ParsePartNumber(b []byte) (int, error) {
	if len(b) != 2 {
		return 0, ErrKey
	}
	return int(binary.BigEndian.Uint16(b)), nil
}

// FreedRow is a row of freed chunks in family g or w: of a key, by the time (Unix nanoseconds) from which they may be
// deleted; clock and n make it unique.
func FreedRow(family byte, bucket uint64, key string, notBefore int64, clock uint64, n uint32) []byte {
	b := KeyRow(family, bucket, key)
	b = binary.BigEndian.AppendUint64(b, uint64(notBefore))
	b = binary.BigEndian.AppendUint64(b, clock)
	return binary.BigEndian.AppendUint32(b, n)
}

// freedSuffix is what FreedRow appends to the object key.
const freedSuffix = 20

// FreedNotBefore reads the time of a FreedRow.
func FreedNotBefore(row []byte) (int64, error) {
	if len(row) < 9+2+freedSuffix {
		return 0, ErrKey
	}
	return int64(binary.BigEndian.Uint64(row[len(row)-freedSuffix:])), nil
}

// Local is a tablet-local row of one kind, with the numbers and then the bytes given.
func Local(kind byte, numbers ...uint64) []byte {
	b := make([]byte, 2, 2+8*len(numbers)+8)
	b[0], b[1] = FamilyLocal, kind
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// LocalNumbers reads count numbers of a tablet-local row and returns what follows them.
func LocalNumbers(row []byte, count int) ([]uint64, []byte, error) {
	if len(row) < 2+8*count {
		return nil, nil, ErrKey
	}
	numbers := make([]uint64, count)
	for i := range numbers {
		numbers[i] = binary.BigEndian.Uint64(row[2+8*i:])
	}
	return numbers, row[2+8*count:], nil
}

// Opaque is the row of an opaque key.
func Opaque(key []byte) []byte {
	return append([]byte{FamilyRows}, key...)
}

// After returns the first key behind all keys that begin with prefix, nil when there is none.
func After(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
