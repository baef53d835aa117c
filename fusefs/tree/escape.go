package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// A key is cut at "/" into segments and each segment is a name in a directory. Segments that are no file name, and
// files that would hide a directory, get an escaped name that starts with "%hf":
//
//	%hf:SEGMENT        a segment with %XX for "%", NUL and, in "." and "..", the dots; "%hf:" alone is the empty segment
//	%hf-file:SEGMENT   the object "a" where keys "a/..." exist too (the directory has the plain name)
//	%hf#START#SHA256   a segment above 255 bytes: its start and the digest of all of it
//
// Every other name is the segment itself, so the escape is reversible and rare.
const (
	escapeMark = "%hf"
	escapeAny  = "%hf:"
	escapeFile = "%hf-file:"
	escapeLong = "%hf#"

	// maxName is NAME_MAX of Linux, in bytes.
	maxName = 255
	// maxKey is S3's limit of a key in bytes.
	maxKey = 1024
	// longStart is how many raw bytes of a long segment its name shows: percent signs triple at worst,
	// and 9 + 3*40 + 1 + 64 <= 255. A name only gets this form when the other is above 255 bytes, so the segment has
	// more than longStart bytes.
	longStart = 40
)

// segment is one name of a key as the tree means it.
type segment struct {
	name string
	// file is set when the name can only mean the object, never the directory of the same name.
	file bool
	// start and digest describe a segment above 255 bytes whose whole text only a listing tells.
	start, digest string
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxName && !strings.HasPrefix(s, escapeMark) && strings.IndexByte(s, 0) < 0
}

// escapeName is the file name of a key segment; shadowed says that a directory has the plain name.
func escapeName(s string, shadowed bool) string {
	if !shadowed && plainName(s) {
		return s
	}
	prefix := escapeAny
	if shadowed {
		prefix = escapeFile
	}
	if name := prefix + percent(s); len(name) <= maxName {
		return name
	}
	mark := escapeLong
	if shadowed {
		mark += "file#"
	} else {
		mark += "#"
	}
	sum := sha256.Sum256([]byte(s))
	return mark + percent(s[:longStart]) + "#" + hex.EncodeToString(sum[:])
}

// unescapeName is the inverse of escapeName; ErrInvalid for names that no key can have.
func unescapeName(name string) (segment, error) {
	switch {
	case len(name) > maxName:
		return segment{}, ErrNameTooLong
	case !strings.HasPrefix(name, escapeMark):
		return segment{name: name}, nil
	case strings.HasPrefix(name, escapeAny):
		return canonical(name, name[len(escapeAny):], false)
	case strings.HasPrefix(name, escapeFile):
		return canonical(name, name[len(escapeFile):], true)
	case strings.HasPrefix(name, escapeLong):
		return unescapeLong(name[len(escapeLong):])
	}
	return segment{}, ErrInvalid
}

// canonical decodes text and refuses it where escapeName gives its segment another name: one key has one name.
func canonical(name, text string, file bool) (segment, error) {
	s, err := unpercent(text)
	if err == nil && escapeName(s, file) != name {
		err = ErrInvalid
	}
	return segment{name: s, file: file}, err
}

func unescapeLong(s string) (segment, error) {
	out := segment{}
	switch {
	case strings.HasPrefix(s, "#"):
		s = s[1:]
	case strings.HasPrefix(s, "file#"):
		s, out.file = s[len("file#"):], true
	default:
		return segment{}, ErrInvalid
	}
	const tail = 1 + 2*sha256.Size
	if len(s) < tail || s[len(s)-tail] != '#' {
		return segment{}, ErrInvalid
	}
	start, err := unpercent(s[:len(s)-tail])
	if err != nil {
		return segment{}, err
	}
	out.start, out.digest = start, s[len(s)-tail+1:]
	return out, nil
}

// matches tells whether a whole segment is the one that a long name stands for.
func (s segment) matches(whole string) bool {
	sum := sha256.Sum256([]byte(whole))
	return hex.EncodeToString(sum[:]) == s.digest
}

func percent(s string) string {
	var b strings.Builder
	dots := s == "." || s == ".."
	for i := range len(s) {
		switch c := s[i]; {
		case c == '%' || c == 0 || dots:
			b.WriteByte('%')
			b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{c})))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unpercent(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", ErrInvalid
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil || c[0] == '/' {
			return "", ErrInvalid
		}
		b.WriteByte(c[0])
		i += 2
	}
	return b.String(), nil
}
