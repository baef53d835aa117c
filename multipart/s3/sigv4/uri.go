package sigv4

import (
	"fmt"
	"slices"
	"strings"
)

// MaxParams bounds the query parameters of a request; S3 operations have at most about ten beside the signature's.
const MaxParams = 64

const upperHex = "0123456789ABCDEF"

// Param is one decoded query parameter.
type Param struct{ Name, Value string }

// Query is the decoded query of a request in the order of the wire.
type Query []Param

// ParseQuery decodes a raw query: pairs between '&', each split at the first '=', "+" a space, percent escapes strict.
// A semicolon is an ordinary character. The error wraps ErrURI.
func ParseQuery(raw string) (Query, error) {
	var q Query
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		if len(q) == MaxParams {
			return nil, fmt.Errorf("more than %d query parameters: %w", MaxParams, ErrURI)
		}
		name, value, _ := strings.Cut(pair, "=")
		n, err := unescape(name, true)
		if err != nil {
			return nil, fmt.Errorf("query parameter: %w", err)
		}
		v, err := unescape(value, true)
		if err != nil {
			return nil, fmt.Errorf("query parameter: %w", err)
		}
		q = append(q, Param{n, v})
	}
	return q, nil
}

// Get returns the value of the first parameter of that name, "" when there is none.
func (q Query) Get(name string) string {
	for _, p := range q {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Has tells whether a parameter of that name is there, with a value or without.
func (q Query) Has(name string) bool { return q.count(name) > 0 }

func (q Query) count(name string) int {
	n := 0
	for _, p := range q {
		if p.Name == name {
			n++
		}
	}
	return n
}

// canonical gives the query as it is signed: encoded, sorted, without the signature itself.
func (q Query) canonical() string {
	pairs := make([]string, 0, len(q))
	for _, p := range q {
		if p.Name != paramSignature {
			pairs = append(pairs, Encode(p.Name)+"="+Encode(p.Value))
		}
	}
	// Sorting "name=value" would place "a-" before "a=", unlike sorting by name first.
	slices.SortFunc(pairs, func(a, b string) int {
		an, av, _ := strings.Cut(a, "=")
		bn, bv, _ := strings.Cut(b, "=")
		if c := strings.Compare(an, bn); c != 0 {
			return c
		}
		return strings.Compare(av, bv)
	})
	return strings.Join(pairs, "&")
}

// DecodePath decodes the path of a request target once, and nothing more: "//", "." and ".." stay what they are and
// "+" is a plus. The error wraps ErrURI.
func DecodePath(raw string) (string, error) {
	if !strings.HasPrefix(raw, "/") {
		return "", fmt.Errorf("path does not begin with a slash: %w", ErrURI)
	}
	return unescape(raw, false)
}

// Encode escapes every byte but A-Z a-z 0-9 - . _ ~ as %XX.
func Encode(s string) string { return escape(s, false) }

// EncodePath is Encode with slashes kept.
func EncodePath(s string) string { return escape(s, true) }

func escape(s string, keepSlash bool) string {
	n := 0
	for i := range len(s) {
		if !plain(s[i], keepSlash) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; plain(c, keepSlash) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(b)
}

func plain(c byte, keepSlash bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return true
	}
	return c == '/' && keepSlash
}

func unescape(s string, plus bool) (string, error) {
	if !strings.ContainsAny(s, "%+") {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) {
				return "", fmt.Errorf("cut percent escape: %w", ErrURI)
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return "", fmt.Errorf("broken percent escape: %w", ErrURI)
			}
			b = append(b, byte(hi<<4|lo))
			i += 2
		case c == '+' && plus:
			b = append(b, ' ')
		default:
			b = append(b, c)
		}
	}
	return string(b), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
