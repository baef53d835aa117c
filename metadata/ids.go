package metadata

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// versionIDSize and uploadIDSize are the bytes of the ids behind their hexadecimal forms.
const (
	versionIDSize = 8 + 4
	uploadIDSize  = 8 + 8
)

// IsZero tells whether id is the zero id, which names no version.
func (id VersionID) IsZero() bool { return id == VersionID{} }

// String gives the id as S3 clients see it: 24 hexadecimal digits, whose order is the order of ids.
func (id VersionID) String() string {
	var b [versionIDSize]byte
	binary.BigEndian.PutUint64(b[:8], id.Clock)
	binary.BigEndian.PutUint32(b[8:], id.Random)
	return hex.EncodeToString(b[:])
}

// ParseVersionID reads what String wrote. The error wraps ErrNoSuchVersion: no version ever had another form.
func ParseVersionID(s string) (VersionID, error) {
	var b [versionIDSize]byte
	if err := parseHex(b[:], s); err != nil {
		return VersionID{}, fmt.Errorf("version id %q: %w", s, ErrNoSuchVersion)
	}
	return VersionID{Clock: binary.BigEndian.Uint64(b[:8]), Random: binary.BigEndian.Uint32(b[8:])}, nil
}

// IsZero tells whether id is the zero id, which names no upload.
func (id UploadID) IsZero() bool { return id == UploadID{} }

// String gives the id as S3 clients see it: 32 hexadecimal digits, whose order is the order of ids.
func (id UploadID) String() string {
	var b [uploadIDSize]byte
	binary.BigEndian.PutUint64(b[:8], id.Clock)
	binary.BigEndian.PutUint64(b[8:], id.Random)
	return hex.EncodeToString(b[:])
}

// ParseUploadID reads what String wrote. The error wraps ErrNoSuchUpload: no upload ever had another form.
func ParseUploadID(s string) (UploadID, error) {
	var b [uploadIDSize]byte
	if err := parseHex(b[:], s); err != nil {
		return UploadID{}, fmt.Errorf("upload id %q: %w", s, ErrNoSuchUpload)
	}
	return UploadID{Clock: binary.BigEndian.Uint64(b[:8]), Random: binary.BigEndian.Uint64(b[8:])}, nil
}

// parseHex fills dst from lower-case digits; upper-case ones would give one id two names.
func parseHex(dst []byte, s string) error {
	if len(s) != hex.EncodedLen(len(dst)) {
		return hex.ErrLength
	}
	for _, c := range []byte(s) {
		if c >= 'A' && c <= 'F' {
			return hex.InvalidByteError(c)
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
