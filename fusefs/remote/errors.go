package remote

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/tree"
)

var (
	errNoSession = errors.New("the gateway does not know this session")
	// errNoReader is of a version that was opened at another gateway, or before a restart: it is opened again.
	errNoReader = errors.New("the gateway does not hold this version open")
	// errStopping sends a mount to another gateway at once.
	errStopping = errors.New("the gateway is stopping")
	// errDamaged is sent again: the request was hurt on its way.
	errDamaged = errors.New("request does not match its CRC32C")
)

// sentinels are the errors that keep their meaning over the wire, by the name they have there.
var sentinels = [...]struct {
	name string
	err  error
}{
	{"session", errNoSession},
	{"reader", errNoReader},
	{"stopping", errStopping},
	{"damaged", errDamaged},
	{"not-exist", tree.ErrNotExist},
	{"exists", tree.ErrExists},
	{"conflict", tree.ErrConflict},
	{"dir-not-empty", tree.ErrDirNotEmpty},
	{"no-space", tree.ErrNoSpace},
	{"quota", tree.ErrQuota},
	{"access", tree.ErrAccess},
	{"too-large", tree.ErrTooLarge},
	{"name-too-long", tree.ErrNameTooLong},
	{"read-only", tree.ErrReadOnly},
	{"is-dir", tree.ErrIsDir},
	{"not-dir", tree.ErrNotDir},
	{"invalid", tree.ErrInvalid},
	{"permission", tree.ErrPermission},
	{"unsupported", tree.ErrUnsupported},
	{"bad-handle", tree.ErrBadHandle},
	{"stale", tree.ErrStale},
	{"no-attr", tree.ErrNoAttr},
	{"no-data", tree.ErrNoData},
	{"too-much", tree.ErrTooMuch},
	{"unavailable", tree.ErrUnavailable},
	{"io", tree.ErrIO},
}

// nameOf is the wire name of an error; "io" for what has none.
func nameOf(err error) string {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return s.name
		}
	}
	return "io"
}

// named is the error with a wire name; nil when the name is not known.
func named(name, text string) error {
	for _, s := range sentinels {
		if s.name == name {
			return fmt.Errorf("gateway: %s: %w", text, s.err)
		}
	}
	return nil
}

// toWire makes the answer of the service out of an error.
func toWire(err error) error {
	if err == nil {
		return nil
	}
	e := connect.NewError(connect.CodeFailedPrecondition, err)
	e.Meta().Set(headerError, nameOf(err))
	return e
}

// fromWire is the inverse of toWire. What did not come from the service is returned as it is.
func fromWire(err error) error {
	var e *connect.Error
	if !errors.As(err, &e) {
		return err
	}
	if known := named(e.Meta().Get(headerError), e.Message()); known != nil {
		return known
	}
	switch e.Code() {
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return fmt.Errorf("gateway: %s: %w", e.Message(), tree.ErrAccess)
	}
	return err
}

// castagnoli is CRC32C, which processors compute by themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crcText(sum uint32) string { return strconv.FormatUint(uint64(sum), 16) }
