package join

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// golden compares data with a golden file. A difference is a new format, and needs a new magic, unless all that is new is a
// field that older releases pass over and do without.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	expect.Golden(t, name+".golden", data)
}

// fixedRequest is a request whose key never changes.
func fixedRequest(t testing.TB) *trust.Request {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	request, err := trust.ParseRequest(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// fixedAsk says everything that there is to say.
func fixedAsk(t testing.TB) *ask {
	t.Helper()
	a := Ask{
		Peer: cluster.PeerID{1}, Again: true, Name: "p2", Zone: "z", Rack: "r", PeerAddress: "10.0.0.2:9100", Gossip: "10.0.0.2:9101", S3: "[::1]:9000", TLS: true,
		Command: 7, Request: fixedRequest(t), Now: func() time.Time { return time.Unix(1_900_000_000, 0) },
		Drives: []topology.Drive{{ID: cluster.DriveID{9}, Name: "d1", Path: "/mnt/d1", Device: 64769, Size: 1 << 40}},
	}
	signed := a.sign(binding{5}, trust.TokenID{4})
	signed.before = a.Request.Sign(returnUse, returning(binding{5}, trust.TokenID{4}, a.Request.PublicKey()))
	return signed
}

func TestFormatsStayAsTheyAre(t *testing.T) {
	a := fixedAsk(t)
	body, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "ask", body)
	h := head{token: trust.TokenID{4}, length: uint32(len(body)), digest: sha256.Sum256(body), proof: trust.Proof{6}}
	golden(t, "head", h.encode())
	golden(t, "proven", h.proven(binding{5}))
	no, err := encodeRefusal(refusalOf(fmt.Errorf("%w: it admitted %q", ErrTokenUsed, "p2")))
	if err != nil {
		t.Fatal(err)
	}
	var message bytes.Buffer
	if err := writeMessage(&message, refused, no); err != nil {
		t.Fatal(err)
	}
	golden(t, "refusal", message.Bytes())
	verifier, err := trust.ParseVerifier(append([]byte("HFTOKEN1"), bytes.Repeat([]byte{8}, 48)...))
	if err != nil {
		t.Fatal(err)
	}
	token := Token{Verifier: verifier, Created: time.Unix(1_900_000_000, 0)}
	golden(t, "token", tokenRow(token, 0).Value)
	token.Peer, token.Key = cluster.PeerID{1}, fixedRequest(t).PublicKey()
	golden(t, "token-used", tokenRow(token, 0).Value)
	golden(t, "gossip", marshalGossip([]membership.Key{{1}, {2}}))
	golden(t, "rotation", rotation{using, 7}.marshal())
}

// TestAnswersStayAsTheyAre: a certificate is in it, so it is read and written.
func TestAnswersStayAsTheyAre(t *testing.T) {
	if expect.Updating() {
		r := newRealm(t, tcp)
		der, err := r.founding.Authority.Issue(fixedRequest(t).Bytes(), trust.Identity{Peer: cluster.PeerID{1}, Roles: trust.RolePeer}, r.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		data, err := encodeAnswer(&Answer{
			Peer: cluster.PeerID{1}, Number: 2, Returned: true, List: r.founding.List, Gossip: []membership.Key{{1}, {2}}, IntegrityKey: [32]byte{7}, Epoch: 9,
			Peers: []topology.Peer{{
				ID: cluster.PeerID{1}, Number: 2, Name: "p2", Zone: "z", Rack: "r", Peer: "10.0.0.2:9100", Gossip: "10.0.0.2:9101", S3: "10.0.0.2:9000",
				TLS: true, State: topology.Draining, Key: fixedRequest(t).PublicKey(), Command: 7,
			}},
		}, der)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "answer", data)
	}
	data, err := os.ReadFile("testdata/answer.golden")
	if err != nil {
		t.Fatal(err)
	}
	a, certificate, err := decodeAnswer(data)
	if err != nil {
		t.Fatal(err)
	}
	if p := a.Peers[0]; a.Peer != (cluster.PeerID{1}) || a.Number != 2 || !a.Returned || a.Epoch != 9 || len(a.Gossip) != 2 || a.IntegrityKey != [32]byte{7} ||
		!samePeer(p, topology.Peer{
			ID: cluster.PeerID{1}, Number: 2, Name: "p2", Zone: "z", Rack: "r", Peer: "10.0.0.2:9100", Gossip: "10.0.0.2:9101", S3: "10.0.0.2:9000",
			TLS: true, State: topology.Draining, Command: 7,
		}) || !p.Key.Equal(fixedRequest(t).PublicKey()) {
		t.Errorf("answer %+v", a.Peers)
	}
	if _, err := fixedRequest(t).Complete(certificate); err != nil {
		t.Error(err)
	}
	again, err := encodeAnswer(a, certificate)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "answer", again)
}

// TestANewerReleaseMaySayMore: fields that are not known here are passed over.
func TestANewerReleaseMaySayMore(t *testing.T) {
	body, err := fixedAsk(t).encode()
	if err != nil {
		t.Fatal(err)
	}
	a, err := decodeAsk([]byte(strings.Replace(string(body), "{", `{"color":"green",`, 1)))
	if err != nil || a.Name != "p2" {
		t.Error(a, err)
	}
	if no := receivedRefusal("too_green", ""); no.Error() != "the cluster refuses: too_green" || errors.Is(no, ErrUnavailable) || !final(no) {
		t.Errorf("an unknown refusal: %v", no)
	}
}

// TestRefusalsAreToldAsTheyAre: every code finds its error on the other side, and nothing else of it is told.
func TestRefusalsAreToldAsTheyAre(t *testing.T) {
	codes := map[string]bool{}
	for _, known := range refusals {
		if codes[known.code] {
			t.Errorf("%s stands for two", known.code)
		}
		codes[known.code] = true
		data, err := encodeRefusal(refusalOf(fmt.Errorf("%w: so it is", known.error)))
		if err != nil {
			t.Fatal(err)
		}
		no, err := decodeRefusal(data)
		if err != nil || !errors.Is(no, known.error) || no.Error() != known.error.Error()+": so it is" {
			t.Errorf("%s: %v, %v", known.code, no, err)
		}
	}
	if no := refusalOf(errors.New("disk /dev/secret is on fire")); no.code != "unavailable" || strings.Contains(no.message, "secret") {
		t.Errorf("told: %+v", no)
	}
	if no := refusalOf(fmt.Errorf("%w: %s", ErrDrive, strings.Repeat("ä\n", maxMessage))); len(no.message) > maxMessage || strings.Contains(no.message, "\n") {
		t.Errorf("a long one has %d bytes", len(no.message))
	}
}

// TestFormatsAreWrittenDown compares FORMAT.md with the constants.
func TestFormatsAreWrittenDown(t *testing.T) {
	data, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		magic, tokenMagic, gossipMagic, bindingLabel, "`" + possessionUse + "`", "`" + returnUse + "`", trust.JoinProtocol, "POST " + RenewPath,
		"`" + authorityName + "`", "`" + listName + "`", "`" + gossipName + "`", rotationMagic, "`" + rotationName + "`", fmt.Sprintf("%d bytes", headSize),
		fmt.Sprintf("at most %d KiB", maxAsk>>10), fmt.Sprintf("at most %d MiB", maxAnswer>>20), fmt.Sprintf("at most %d KiB", maxRenewal>>10),
	}
	for _, known := range refusals {
		want = append(want, "`"+known.code+"`")
	}
	for _, of := range []any{askWire{}, driveWire{}, answerWire{}, peerWire{}, refusalWire{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			want = append(want, "`"+name+"`")
		}
	}
	for _, text := range want {
		if !strings.Contains(string(data), text) {
			t.Errorf("FORMAT.md does not say %q", text)
		}
	}
}

func FuzzAsk(f *testing.F) {
	body, err := fixedAsk(f).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"peer":"00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeAsk(data)
		if err != nil {
			if !errors.Is(err, ErrBadAsk) {
				t.Errorf("error %v", err)
			}
			return
		}
		if err := a.check(); err != nil {
			t.Errorf("taken, but %v", err)
		}
		again, err := a.encode()
		if err != nil {
			return // it was shorter before it was written out
		}
		if b, err := decodeAsk(again); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%+v is read again as %+v, %v", a, b, err)
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add((head{token: trust.TokenID{4}, length: 5, proof: trust.Proof{6}}).encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := decodeHead(data)
		if err == nil && (!bytes.Equal(h.encode(), data) || h.length > maxAsk) {
			t.Errorf("%x is read as %+v", data, h)
		}
	})
}

// FuzzMessage reads what a cluster sends, whatever it is.
func FuzzMessage(f *testing.F) {
	for _, name := range []string{"answer", "refusal"} {
		data, err := os.ReadFile("testdata/" + name + ".golden")
		if err != nil {
			f.Fatal(err)
		}
		var message bytes.Buffer
		if err := writeMessage(&message, granted, data); err != nil {
			f.Fatal(err)
		}
		f.Add(message.Bytes())
		f.Add(data)
	}
	f.Add([]byte(magic + "g\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, body, err := readMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeMessage(&again, k, body); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("%x is read as %q %x", data, k, body)
		}
		if no, err := decodeRefusal(body); err == nil && strings.ContainsAny(no.Error(), "\n\x1b") {
			t.Errorf("it would be shown: %q", no)
		}
		a, certificate, err := decodeAnswer(body)
		if err != nil {
			return
		}
		written, err := encodeAnswer(a, certificate)
		if err != nil {
			return
		}
		if b, _, err := decodeAnswer(written); err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("an answer is read again as another: %v", err)
		}
	})
}

func FuzzTokenRow(f *testing.F) {
	for _, name := range []string{"token", "token-used"} {
		data, err := os.ReadFile("testdata/" + name + ".golden")
		if err != nil {
			f.Fatal(err)
		}
		f.Add("0808080808080808", data)
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		token, err := parseToken(root.Row{Name: name, Value: data})
		if err != nil {
			return
		}
		if row := tokenRow(token, 0); row.Name != name || !bytes.Equal(row.Value, data) {
			t.Errorf("%q %x is read as %+v", name, data, token)
		}
	})
}

func FuzzGossip(f *testing.F) {
	f.Add(marshalGossip([]membership.Key{{1}, {2}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// What stands before a checksum that fits is what is fuzzed.
		sum := sha256.Sum256(data)
		for _, b := range [][]byte{data, append(bytes.Clone(data), sum[:]...)} {
			if keys, err := parseGossip(b); err == nil && !bytes.Equal(marshalGossip(keys), b) {
				t.Errorf("%x is read as %d keys", b, len(keys))
			}
		}
	})
}
