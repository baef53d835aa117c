package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"os"
	"reflect"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/tests/expect"
)

// golden compares data with a golden file. A difference is a new format: it needs a new magic.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	expect.Golden(t, name+".golden", data)
}

func TestFormatsStayAsTheyAre(t *testing.T) {
	token := newToken(t, "10.0.0.1:9443", "[::1]:9443")
	token.ID, token.secret, token.Pin = TokenID{4, 5}, hide(tokenSecret{6, 7}), Pin{8, 9}
	golden(t, "token", []byte(token.Encode()))
	golden(t, "verifier", token.Verifier().Marshal())
	proof := token.Prove([]byte("request"))
	golden(t, "proof", proof[:])

	// The list has a certificate in it, so it is read and written.
	if expect.Updating() {
		list := newRealm(t).list.Revoke(cluster.PeerID{1}, cluster.PeerID{2})
		golden(t, "list", list.Marshal())
	}
	data, err := os.ReadFile("testdata/list.golden")
	if err != nil {
		t.Fatal(err)
	}
	list, err := ParseList(data)
	if err != nil {
		t.Fatal(err)
	}
	if list.Epoch != 2 || len(list.Authorities) != 1 || !reflect.DeepEqual(list.Revoked, []cluster.PeerID{{1}, {2}}) {
		t.Errorf("list %d: %d authorities, revoked %v", list.Epoch, len(list.Authorities), list.Revoked)
	}
	golden(t, "list", list.Marshal())
}

func TestListsAreOrderedAndBounded(t *testing.T) {
	r := newRealm(t)
	list := r.list.Revoke(cluster.PeerID{3}, cluster.PeerID{1}).Revoke(cluster.PeerID{2}, cluster.PeerID{1})
	if want := []cluster.PeerID{{1}, {2}, {3}}; !reflect.DeepEqual(list.Revoked, want) || list.Epoch != r.list.Epoch+2 {
		t.Errorf("list %d revokes %v", list.Epoch, list.Revoked)
	}
	if len(r.list.Revoked) != 0 {
		t.Error("the list before was changed")
	}
	many := make([]cluster.PeerID, maxRevoked+1)
	for i := range many {
		binary.BigEndian.PutUint32(many[i][:], uint32(i))
	}
	for _, test := range []struct {
		name    string
		revoked []cluster.PeerID
		want    error
	}{
		{"as many as may be", many[:maxRevoked], nil},
		{"one more", many, ErrBadList},
		{"one twice", []cluster.PeerID{{1}, {1}}, ErrBadList},
		{"out of order", []cluster.PeerID{{2}, {1}}, ErrBadList},
	} {
		got, err := ParseList(List{Epoch: 7, Authorities: r.list.Authorities, Revoked: test.revoked}.Marshal())
		if wantErr(t, err, test.want); err == nil && !reflect.DeepEqual(got.Revoked, test.revoked) {
			t.Errorf("%s: other ids were read", test.name)
		}
	}
	_, err := ParseList(List{Epoch: 7}.Marshal())
	wantErr(t, err, ErrBadList)
}

func TestDamagedListsAreRefused(t *testing.T) {
	r := newRealm(t)
	good := r.list.Revoke(newID()).Marshal()
	for n := range good {
		if _, err := ParseList(good[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are a list", n, len(good))
		}
		bad := bytes.Clone(good)
		bad[n] ^= 1
		if _, err := ParseList(bad); err == nil {
			t.Fatalf("byte %d may be anything", n)
		}
	}
	_, err := ParseList(append(good, 0))
	wantErr(t, err, ErrBadList)
}

func FuzzParseList(f *testing.F) {
	data, err := os.ReadFile("testdata/list.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:len(data)-sha256.Size])
	f.Add([]byte(listMagic + "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := sha256.Sum256(body) // so that more than the checksum is tried
		data := append(bytes.Clone(body), sum[:]...)
		if list, err := ParseList(data); err == nil && !bytes.Equal(list.Marshal(), data) {
			t.Error("a list has two spellings")
		}
		_, _ = ParseList(body)
	})
}

func FuzzParseToken(f *testing.F) {
	data, err := os.ReadFile("testdata/token.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data), []byte("x"))
	raw, err := tokenText.DecodeString(string(data[len(tokenPrefix):]))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("hfjoin1_", raw[2:len(raw)-tokenSum])
	f.Fuzz(func(t *testing.T, text string, inside []byte) {
		if token, err := ParseToken(text); err == nil && token.Encode() == "" {
			t.Error("an empty token")
		}
		if len(inside) > tokenLimit {
			return
		}
		// A token around these bytes, so that more than the checksum is tried.
		whole := binary.LittleEndian.AppendUint16(nil, uint16(2+len(inside)+tokenSum))
		whole = append(whole, inside...)
		sum := sha256.Sum256(whole)
		made := tokenPrefix + tokenText.EncodeToString(append(whole, sum[:tokenSum]...))
		if token, err := ParseToken(made); err == nil && token.Encode() != made {
			t.Error("a token has two spellings")
		}
	})
}

func FuzzParseVerifier(f *testing.F) {
	data, err := os.ReadFile("testdata/verifier.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		verifier, err := ParseVerifier(data)
		if err != nil {
			return
		}
		if !bytes.Equal(verifier.Marshal(), data) {
			t.Error("a verifier has two spellings")
		}
		if verifier.Accepts(data, Proof{}, dawn) == nil {
			t.Error("a proof of zeros is accepted")
		}
	})
}

// fuzzPairs gives both parsers of a key and a certificate PEM around any DER.
func fuzzPairs(f *testing.F, parse func([]byte) (interface{ Marshal() []byte }, error)) {
	authority, err := NewAuthority(cluster.ClusterID{1}, dawn)
	if err != nil {
		f.Fatal(err)
	}
	request, err := NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	der, err := authority.Issue(request.Bytes(), Identity{Peer: cluster.PeerID{1}, Roles: RolePeer}, dawn)
	if err != nil {
		f.Fatal(err)
	}
	credentials, err := request.Complete(der)
	if err != nil {
		f.Fatal(err)
	}
	for _, pair := range [][]byte{authority.Marshal(), credentials.Marshal()} {
		key, rest := pem.Decode(pair)
		certificate, _ := pem.Decode(rest)
		f.Add(pair, key.Bytes, certificate.Bytes)
	}
	f.Fuzz(func(t *testing.T, data, key, certificate []byte) {
		made := append(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: key}),
			pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: certificate})...)
		for _, data := range [][]byte{data, made} {
			if got, err := parse(data); err == nil && !bytes.Equal(got.Marshal(), data) {
				t.Error("a pair has two spellings")
			}
		}
	})
}

func FuzzParseAuthority(f *testing.F) {
	fuzzPairs(f, func(data []byte) (interface{ Marshal() []byte }, error) { return ParseAuthority(data) })
}

func FuzzParseCredentials(f *testing.F) {
	fuzzPairs(f, func(data []byte) (interface{ Marshal() []byte }, error) { return ParseCredentials(data) })
}

func FuzzIssue(f *testing.F) {
	authority, err := NewAuthority(cluster.ClusterID{1}, dawn)
	if err != nil {
		f.Fatal(err)
	}
	request, err := NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request.Bytes())
	mine := Identity{Peer: cluster.PeerID{1}, Roles: RolePeer}
	roots := List{}.Trust(authority.Certificate())
	f.Fuzz(func(t *testing.T, request []byte) {
		der, err := authority.Issue(request, mine, dawn)
		if err != nil {
			return
		}
		v, err := newView(roots)
		if err != nil {
			t.Fatal(err)
		}
		leaf := mustParse(t, der)
		if got, err := holder(leaf, authority.Cluster(), v.roots); err != nil || got != mine {
			t.Errorf("issued for %v: %v %v", mine, got, err)
		}
	})
}
