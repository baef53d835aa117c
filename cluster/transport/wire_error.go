package transport

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/cluster"
)

// ErrorHeader is the header of an answer that is an error. FORMAT.md draws it.
const ErrorHeader = "Holdfast-Error"

// Limits of an error on the wire. Together, in base64, they stay under maxHeader.
const (
	maxCode    = 64
	maxCodes   = 8
	maxMessage = 1 << 10
	// MaxDetail bounds the detail of an error, in bytes. A longer one is left out.
	MaxDetail = 6 << 10
)

// errorFormat begins an error on the wire.
const errorFormat = "1"

// errBadWireError says that a header is no error in our form.
var errBadWireError = errors.New("not an error of a format known here")

// Encode is err as the value of ErrorHeader: with the codes of all sentinels that errors.Is finds in it.
func (s Sentinels) Encode(err error) string {
	var codes []string
	for _, code := range slices.Sorted(maps.Keys(s)) {
		if len(codes) < maxCodes && errors.Is(err, s[code]) {
			codes = append(codes, code)
		}
	}
	detail := detailOf(err)
	if len(detail) > MaxDetail {
		detail = nil
	}
	encode := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{errorFormat, strings.Join(codes, ","), encode(cutText(err.Error())), encode(detail)}, ";")
}

// cutText bounds a message. Half a rune at its end becomes a question mark.
func cutText(text string) []byte {
	return []byte(strings.ToValidUTF8(text[:min(len(text), maxMessage)], "?"))
}

// Decode reads what Encode wrote on peer. Codes that are not in the table are kept as text.
func (s Sentinels) Decode(peer cluster.PeerID, value string) (*RemoteError, error) {
	parts := strings.Split(value, ";")
	if len(parts) != 4 || parts[0] != errorFormat {
		return nil, fmt.Errorf("%d bytes: %w", len(value), errBadWireError)
	}
	remote := &RemoteError{Peer: peer}
	if parts[1] != "" {
		remote.Codes = strings.Split(parts[1], ",")
	}
	if len(remote.Codes) > maxCodes {
		return nil, fmt.Errorf("%d codes: %w", len(remote.Codes), errBadWireError)
	}
	for _, code := range remote.Codes {
		if !goodCode(code) {
			return nil, fmt.Errorf("code %q: %w", code, errBadWireError)
		}
		if sentinel, known := s[code]; known {
			remote.sentinels = append(remote.sentinels, sentinel)
		}
	}
	message, err := decodePart(parts[2], maxMessage)
	if err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	if !utf8.Valid(message) {
		return nil, fmt.Errorf("message: %w", errBadWireError)
	}
	remote.Message = string(message)
	if remote.Detail, err = decodePart(parts[3], MaxDetail); err != nil {
		return nil, fmt.Errorf("detail: %w", err)
	}
	return remote, nil
}

// decodePart reads at most limit bytes; nil when there are none.
func decodePart(text string, limit int) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	if base64.RawURLEncoding.DecodedLen(len(text)) > limit {
		return nil, fmt.Errorf("%d characters: %w", len(text), errBadWireError)
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadWireError, err)
	}
	return data, nil
}
