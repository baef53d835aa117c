package join

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/trust"
)

// maxTokens bounds the tokens that are open: provisioning makes one for each machine of a large cluster, and a list of
// them is still one read.
const maxTokens = 1000

// tokenTries bounds how often a change of tokens meets another one.
const tokenTries = 16

// Errors of keeping tokens.
var (
	// ErrTooManyTokens says that some must be used, revoked or expire first.
	ErrTooManyTokens = fmt.Errorf("there are %d join tokens already", maxTokens)
	// ErrUnknownToken says that there is no such token, or no more.
	ErrUnknownToken = errors.New("no such join token")
	// ErrBadToken says that a row is no token of a format known here.
	ErrBadToken = errors.New("not a row of a join token")
)

// Token is what the cluster keeps of a join token until it expires. It holds no secret.
type Token struct {
	trust.Verifier
	Created time.Time // to the second
	// Peer is whom the token admitted, zero while it was not used; Key is the key that it admitted.
	Peer cluster.PeerID
	Key  ed25519.PublicKey
}

// Used says whether the token has admitted a peer.
func (t Token) Used() bool { return t.Peer != cluster.PeerID{} }

// NewToken makes a token for one peer to join by, and stores what the cluster keeps of it. Addresses are peers to ask,
// as host:port. A life of zero means trust.TokenLife. Tokens that have expired are removed on the way.
func NewToken(ctx context.Context, client *root.Client, addresses []string, life time.Duration, now time.Time) (*trust.Token, error) {
	row, err := client.Row(ctx, root.Cluster, authorityName)
	if errors.Is(err, root.ErrNotFound) {
		err = ErrNoSecrets
	}
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	authority, err := trust.ParseAuthority(row.Value)
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	made, err := trust.NewToken(authority.Pin(), addresses, life, now)
	if err != nil {
		return nil, err
	}
	kept := Token{Verifier: made.Verifier(), Created: now}
	for range tokenTries {
		if err = keepToken(ctx, client, kept, now); !errors.Is(err, root.ErrConflict) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	return made, nil
}

// keepToken stores a token, in one command with the removal of those that have expired.
func keepToken(ctx context.Context, client *root.Client, token Token, now time.Time) error {
	rows, err := client.Rows(ctx, root.Tokens, "", "", 0)
	if err != nil {
		return err
	}
	var expired []root.Row
	for _, row := range rows {
		old, err := parseToken(row)
		switch {
		case err != nil:
			return err
		case old.ID == token.ID:
			return nil // a command whose outcome was unknown had stored it
		case !now.Before(old.Expires):
			expired = append(expired, row)
		}
	}
	if len(rows)-len(expired) >= maxTokens {
		return ErrTooManyTokens
	}
	_, err = client.Change(ctx, []root.Row{tokenRow(token, 0)}, expired)
	return err
}

// Tokens are those that have not expired, the oldest first.
func Tokens(ctx context.Context, client *root.Client, now time.Time) ([]Token, error) {
	rows, err := client.Rows(ctx, root.Tokens, "", "", 0)
	if err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	var tokens []Token
	for _, row := range rows {
		token, err := parseToken(row)
		if err != nil {
			return nil, fmt.Errorf("list join tokens: %w", err)
		}
		if now.Before(token.Expires) {
			tokens = append(tokens, token)
		}
	}
	slices.SortFunc(tokens, func(a, b Token) int {
		return cmp.Or(a.Created.Compare(b.Created), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return tokens, nil
}

// RevokeToken takes a token back: nobody joins by it any more, and who did cannot ask again for a lost answer. The
// error is ErrUnknownToken when it is gone already.
func RevokeToken(ctx context.Context, client *root.Client, id trust.TokenID) error {
	if _, err := client.Row(ctx, root.Tokens, id.String()); errors.Is(err, root.ErrNotFound) {
		return fmt.Errorf("revoke %v: %w", id, ErrUnknownToken)
	} else if err != nil {
		return fmt.Errorf("revoke join token %v: %w", id, err)
	}
	if err := client.DeleteRow(ctx, root.Tokens, id.String(), 0); err != nil {
		return fmt.Errorf("revoke join token %v: %w", id, err)
	}
	return nil
}

// ParseTokenID reads what TokenID.String writes.
func ParseTokenID(text string) (trust.TokenID, error) {
	var id trust.TokenID
	if len(text) != 2*len(id) {
		return id, fmt.Errorf("%q is not an id of %d hexadecimal digits: %w", text, 2*len(id), ErrUnknownToken)
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return trust.TokenID{}, fmt.Errorf("%q is not an id of %d hexadecimal digits: %w", text, 2*len(id), ErrUnknownToken)
	}
	return id, nil
}

// readToken reads the row of a token.
func readToken(ctx context.Context, client *root.Client, id trust.TokenID) (root.Row, Token, error) {
	row, err := client.Row(ctx, root.Tokens, id.String())
	if errors.Is(err, root.ErrNotFound) {
		return row, Token{}, trust.ErrTokenWrong
	}
	if err != nil {
		return row, Token{}, err
	}
	token, err := parseToken(row)
	return row, token, err
}

// tokenMagic begins the row of a token; its last digit is the format.
const tokenMagic = "HFJTOKN1"

// verifierSize is that of trust.Verifier's bytes.
const verifierSize = 56

// tokenRow is the row of a token, to be written over that revision; FORMAT.md has the box.
func tokenRow(t Token, revision uint64) root.Row {
	value := append([]byte(tokenMagic), t.Verifier.Marshal()...)
	value = binary.LittleEndian.AppendUint64(value, uint64(t.Created.Unix()))
	if t.Used() {
		value = append(append(value, t.Peer[:]...), t.Key...)
	}
	return root.Row{Kind: root.Tokens, Name: t.ID.String(), Value: value, Revision: revision}
}

// parseToken reads what tokenRow made.
func parseToken(row root.Row) (Token, error) {
	const open = len(tokenMagic) + verifierSize + 8
	const used = open + len(cluster.PeerID{}) + ed25519.PublicKeySize
	data := row.Value
	if len(data) != open && len(data) != used || string(data[:len(tokenMagic)]) != tokenMagic {
		return Token{}, fmt.Errorf("row %q of %d bytes: %w", row.Name, len(data), ErrBadToken)
	}
	var t Token
	var err error
	if t.Verifier, err = trust.ParseVerifier(data[len(tokenMagic) : len(tokenMagic)+verifierSize]); err != nil {
		return Token{}, fmt.Errorf("row %q: %w: %w", row.Name, ErrBadToken, err)
	}
	if t.ID.String() != row.Name {
		return Token{}, fmt.Errorf("row %q is of token %v: %w", row.Name, t.ID, ErrBadToken)
	}
	t.Created = time.Unix(int64(binary.LittleEndian.Uint64(data[open-8:])), 0)
	if data = data[open:]; len(data) > 0 {
		t.Key = bytes.Clone(data[copy(t.Peer[:], data):])
		if !t.Used() {
			return Token{}, fmt.Errorf("row %q admitted nobody: %w", row.Name, ErrBadToken)
		}
	}
	return t, nil
}
