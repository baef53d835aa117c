// Package xmlapi holds the XML bodies of S3 and their codec.
//
// What goes out is well-formed XML 1.0 whatever the keys are: a character that XML cannot hold (most control
// characters, U+FFFE, U+FFFF, bytes that are not UTF-8) is written as U+FFFD. Clients that must see such keys exactly
// ask for encoding-type=url. What comes in is bounded in size and depth, and document type declarations are refused.
package xmlapi

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Namespace is that of every S3 body.
const Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// Header opens every body.
const Header = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// Limits of bodies in bytes. The long one is for lists of 10,000 parts or 1,000 keys of 1 KiB, each escaped.
const (
	MaxBody     = 1 << 20
	MaxLongBody = 8 << 20
)

// maxDepth bounds nested elements; no S3 body has more than 6.
const maxDepth = 16

// ErrMalformed says that a body is not the XML document that was expected.
var ErrMalformed = errors.New("malformed XML")

// Marshal encodes a body without the header.
func Marshal(v any) ([]byte, error) { return xml.Marshal(v) }

// Unmarshal decodes body, which holds one element and nothing else, into v. The error wraps ErrMalformed.
func Unmarshal(body []byte, v any) error {
	if !utf8.Valid(body) {
		return fmt.Errorf("body is not UTF-8: %w", ErrMalformed)
	}
	guard := &guard{tokens: xml.NewDecoder(bytes.NewReader(body))}
	decoder := xml.NewTokenDecoder(guard)
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for {
		token, err := guard.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		switch token := token.(type) {
		case xml.Comment, xml.ProcInst:
		case xml.CharData:
			if len(bytes.TrimSpace(token)) > 0 {
				return fmt.Errorf("text behind the document: %w", ErrMalformed)
			}
		default:
			return fmt.Errorf("more than one document: %w", ErrMalformed)
		}
	}
}

// guard passes tokens on and refuses what no S3 body holds.
type guard struct {
	tokens *xml.Decoder
	depth  int
}

func (g *guard) Token() (xml.Token, error) {
	token, err := g.tokens.Token()
	if err != nil {
		return token, err
	}
	switch token.(type) {
	case xml.StartElement:
		if g.depth++; g.depth > maxDepth {
			return nil, fmt.Errorf("elements nest deeper than %d", maxDepth)
		}
	case xml.EndElement:
		g.depth--
	case xml.Directive:
		return nil, errors.New("document type declarations are refused")
	}
	return token, nil
}

// Representable tells whether XML 1.0 can hold s as it is.
func Representable(s string) bool {
	for i, c := range s {
		switch {
		case c == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		case c == '\t' || c == '\n' || c == '\r' || c >= 0x20 && c <= 0xD7FF || c >= 0xE000 && c <= 0xFFFD || c >= 0x10000:
		default:
			return false
		}
	}
	return true
}
