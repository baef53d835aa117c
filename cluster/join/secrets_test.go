package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
)

// TestAClusterIsFounded: the rows hold what the first peer has, once.
func TestAClusterIsFounded(t *testing.T) {
	client := root.NewClient(newGroup(t))
	if _, err := Load(t.Context(), client); !errors.Is(err, ErrNoSecrets) {
		t.Errorf("before: %v", err)
	}
	if _, err := NewToken(t.Context(), client, []string{"a:1"}, 0, time.Now()); !errors.Is(err, ErrNoSecrets) {
		t.Errorf("a token before: %v", err)
	}
	c, self := cluster.ClusterID(cluster.NewID()), cluster.PeerID(cluster.NewID())
	f, err := Found(c, self, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if id := f.Credentials.Identity(); id != (trust.Identity{Peer: self, Roles: trust.RolePeer}) || f.Credentials.Cluster() != c || f.List.Epoch != 1 {
		t.Errorf("credentials of %v, list %d", id, f.List.Epoch)
	}
	if _, err := trust.NewStore(trust.Config{Credentials: f.Credentials, List: f.List}); err != nil {
		t.Error(err)
	}
	if _, err := client.PutRows(t.Context(), f.Rows); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(loaded.Authority.Marshal(), f.Authority.Marshal()) || !bytes.Equal(loaded.List.Marshal(), f.List.Marshal()) ||
		len(loaded.Gossip) != 1 || loaded.Gossip[0] != f.Gossip[0] {
		t.Error("the rows hold something else")
	}
	other, err := Found(c, self, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.PutRows(t.Context(), other.Rows); !errors.Is(err, root.ErrConflict) {
		t.Errorf("founded twice: %v", err)
	}
}

// TestAPeerThatIsAloneGetsNewCredentials out of the rows, with its key in the map.
func TestAPeerThatIsAloneGetsNewCredentials(t *testing.T) {
	r := newRealm(t, tcp)
	credentials, secrets, err := Reissue(t.Context(), r.client, r.first.id, r.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	if credentials.Identity().Peer != r.first.id || credentials.PublicKey().Equal(r.founding.Credentials.PublicKey()) {
		t.Errorf("credentials of %v", credentials.Identity())
	}
	m := r.topology()
	if p, _ := m.Peer(r.first.id); !p.Key.Equal(credentials.PublicKey()) || p.Number != 1 || p.Name != "first" {
		t.Errorf("peer %+v", p)
	}
	if err := r.first.trust.SetCredentials(credentials); err != nil {
		t.Error(err)
	}
	if _, err := trust.NewStore(trust.Config{Credentials: credentials, List: secrets.List}); err != nil {
		t.Error(err)
	}
	if _, _, err := Reissue(t.Context(), r.client, cluster.PeerID{1}, r.clock.now()); !errors.Is(err, topology.ErrUnknownPeer) {
		t.Errorf("of nobody: %v", err)
	}
	second := join2(r, "second")
	if _, err := Revoke(t.Context(), r.client, second.Peer, true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Reissue(t.Context(), r.client, second.Peer, r.clock.now()); !errors.Is(err, ErrRemoved) {
		t.Errorf("of a removed peer: %v", err)
	}
}

// TestSecretsDoNotPrint: no verb of fmt, and no error, shows them; nor does the log of a join.
func TestSecretsDoNotPrint(t *testing.T) {
	r := newRealm(t, tcp)
	answer := join2(r, "second")
	key := r.founding.Gossip[0]
	for what, value := range map[string]any{
		"secrets": r.founding.Secrets, "pointer": &r.founding.Secrets, "founding": r.founding, "answer": answer, "answer's value": *answer,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
			text := fmt.Sprintf(verb, value)
			if len(text) > 100 || strings.Contains(text, fmt.Sprintf("%x", key[:4])) || strings.Contains(text, "PRIVATE") {
				t.Errorf("%s prints with %s: %s", what, verb, text)
			}
		}
	}
	if text := r.log.String(); strings.Contains(text, "PRIVATE") || !strings.Contains(text, "second") {
		t.Errorf("log: %s", text)
	}
}

func TestDamagedGossipKeysAreRefused(t *testing.T) {
	keys := []membership.Key{{1}, {2}}
	good := marshalGossip(keys)
	if got, err := parseGossip(good); err != nil || len(got) != 2 || got[0] != keys[0] || got[1] != keys[1] {
		t.Fatal(got, err)
	}
	bad := map[string][]byte{
		"nothing": nil, "a part": good[:len(good)-1], "more": append(bytes.Clone(good), 0), "another format": append([]byte("HFGOSKY2"), good[8:]...),
		"no key": marshalGossip(nil), "three keys": marshalGossip([]membership.Key{{1}, {2}, {3}}), "a key of zeros": marshalGossip([]membership.Key{{}}),
	}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		bad[fmt.Sprintf("a flipped bit in byte %d", i)] = flipped
	}
	for name, data := range bad {
		if _, err := parseGossip(data); !errors.Is(err, ErrBadGossip) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTokensAreKept: listed with whom they admitted, taken back, removed when they have expired, and bounded in number.
func TestTokensAreKept(t *testing.T) {
	r := newRealm(t, tcp)
	first := r.token()
	answer := join2(r, "second")
	third := r.token()
	tokens, err := Tokens(t.Context(), r.client, r.clock.now())
	if err != nil || len(tokens) != 3 {
		t.Fatal(tokens, err)
	}
	used := 0
	for _, token := range tokens {
		if token.Used() {
			used++
			if token.Peer != answer.Peer || token.ID == first.ID || token.ID == third.ID {
				t.Errorf("token %v has admitted %v", token.ID, token.Peer)
			}
		}
	}
	if used != 1 {
		t.Errorf("%d are used", used)
	}
	id, err := ParseTokenID(first.ID.String())
	if err != nil || id != first.ID {
		t.Fatal(id, err)
	}
	for _, text := range []string{"", "xyz", first.ID.String() + "0", "zzzzzzzzzzzzzzzz"} {
		if _, err := ParseTokenID(text); !errors.Is(err, ErrUnknownToken) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := RevokeToken(t.Context(), r.client, id); err != nil {
		t.Error(err)
	}
	if err := RevokeToken(t.Context(), r.client, id); !errors.Is(err, ErrUnknownToken) {
		t.Errorf("revoked twice: %v", err)
	}
	r.clock.ahead.Store(int64(trust.TokenLife))
	if tokens, err := Tokens(t.Context(), r.client, r.clock.now()); err != nil || len(tokens) != 0 {
		t.Errorf("after their time: %v %v", tokens, err)
	}
	last := r.token()
	rows, err := r.client.Rows(t.Context(), root.Tokens, "", "", 0)
	if err != nil || len(rows) != 1 || rows[0].Name != last.ID.String() {
		t.Errorf("rows %v, %v", rows, err)
	}
	for i := range maxTokens - 1 {
		kept := Token{Verifier: last.Verifier(), Created: time.Now()}
		kept.ID = trust.TokenID{1, byte(i >> 8), byte(i)}
		if _, err := r.client.PutRow(t.Context(), tokenRow(kept, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewToken(t.Context(), r.client, []string{"a:1"}, 0, r.clock.now()); !errors.Is(err, ErrTooManyTokens) {
		t.Errorf("one more than fits: %v", err)
	}
	if err := RevokeToken(t.Context(), r.client, last.ID); err != nil {
		t.Error(err)
	}
	r.token()
	if _, err := NewToken(t.Context(), r.client, nil, 0, r.clock.now()); err == nil {
		t.Error("a token that leads nowhere")
	}
}

// TestATokenWhoseStoringWasUnsureIsGood: the command is proposed again, or found to be done.
func TestATokenWhoseStoringWasUnsureIsGood(t *testing.T) {
	r := newRealm(t, tcp)
	var unsure atomic.Int64
	after := func(context.Context, []byte) error {
		if unsure.Add(1) == 1 {
			return raft.ErrUnknownOutcome
		}
		return nil
	}
	r.group.after.Store(&after)
	made := r.token()
	kept := r.kept(made)
	if err := keepToken(t.Context(), r.client, kept, r.clock.now()); err != nil {
		t.Error(err)
	}
	rows, err := r.client.Rows(t.Context(), root.Tokens, "", "", 0)
	if err != nil || len(rows) != 1 || rows[0].Revision != 1 || unsure.Load() != 2 {
		t.Errorf("rows %v, %v, %d commands", rows, err, unsure.Load())
	}
}

func TestDamagedTokenRowsAreRefused(t *testing.T) {
	verifier := trust.Verifier{ID: trust.TokenID{1}, Expires: time.Unix(9, 0)}
	open := tokenRow(Token{Verifier: verifier, Created: time.Unix(5, 0)}, 0)
	used := tokenRow(Token{Verifier: verifier, Created: time.Unix(5, 0), Peer: cluster.PeerID{2}, Key: make([]byte, 32)}, 4)
	for _, row := range []root.Row{open, used} {
		token, err := parseToken(row)
		if err != nil || token.ID != verifier.ID || !token.Created.Equal(time.Unix(5, 0)) || token.Used() != (row.Revision == 4) {
			t.Fatalf("%+v, %v", token, err)
		}
	}
	change := func(row root.Row, f func(*root.Row)) root.Row {
		row.Value = bytes.Clone(row.Value)
		f(&row)
		return row
	}
	for name, row := range map[string]root.Row{
		"nothing":            {Name: open.Name},
		"a part":             change(open, func(r *root.Row) { r.Value = r.Value[:len(r.Value)-1] }),
		"more":               change(used, func(r *root.Row) { r.Value = append(r.Value, 0) }),
		"another format":     change(open, func(r *root.Row) { r.Value[7]++ }),
		"no verifier":        change(open, func(r *root.Row) { r.Value[8]++ }),
		"of another token":   change(open, func(r *root.Row) { r.Name = "0200000000000000" }),
		"it admitted nobody": change(used, func(r *root.Row) { clear(r.Value[72:88]) }),
	} {
		if _, err := parseToken(row); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
