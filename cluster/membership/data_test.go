package membership

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/tests/expect"
	"pgregory.net/rapid"
)

var golden = announcement{leaving: true, gossip: netip.MustParseAddrPort("10.1.2.3:7000"), Data: Data{
	Name: "größe-1", Zone: "zone a", Rack: "r12", Peer: "[fd00::12]:7001", S3: "s3.example.org:9000",
	Format: 3, Command: 0x01020304, Incarnation: 1 << 40,
}}

// encode packs an announcement of peer 7 with its signature.
func encode(t rapid.TB, a announcement) []byte {
	t.Helper()
	body, err := a.body()
	if err != nil {
		t.Fatal(err)
	}
	out, err := pack(body, ed25519.Sign(firstKey(peerID(7)), statement(testCluster, peerID(7), body)))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGoldenData(t *testing.T) {
	want := encode(t, golden)
	expect.Golden(t, "data-2.golden", want)
	if back, err := decode(want); err != nil || back != golden {
		t.Errorf("%+v, %v", back, err)
	}
	body, signature, err := unpack(want)
	public := firstKey(peerID(7)).Public().(ed25519.PublicKey)
	if err != nil || !ed25519.Verify(public, statement(testCluster, peerID(7), body), signature) {
		t.Errorf("the signature does not hold: %v", err)
	}
}

func TestFormatNumberStandsInItsDocument(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), dataMagic) {
		t.Errorf("FORMAT.md does not draw %s", dataMagic)
	}
}

func TestDataComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-zäß0-9.:\[\]-]{0,40}`)
		ip := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip")))
		if rapid.Bool().Draw(t, "v6") {
			ip = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip6"))).Unmap()
		}
		gossip := netip.AddrPortFrom(ip, rapid.Uint16().Draw(t, "port"))
		a := announcement{leaving: rapid.Bool().Draw(t, "leaving"), gossip: gossip, Data: Data{
			Name: text.Draw(t, "name"), Zone: text.Draw(t, "zone"), Rack: text.Draw(t, "rack"), Peer: text.Draw(t, "peer"), S3: text.Draw(t, "s3"),
			Format: rapid.Uint32().Draw(t, "format"), Command: rapid.Uint32().Draw(t, "command"), Incarnation: rapid.Uint64().Draw(t, "incarnation"),
		}}
		if back, err := decode(encode(t, a)); err != nil || back != a {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}

func TestTheLongestDataFits(t *testing.T) {
	const room = 393 // what the comment of Data says
	signature := make([]byte, ed25519.SignatureSize)
	try := func(zone string) ([]byte, error) {
		body, err := announcement{gossip: golden.gossip, Data: Data{Name: strings.Repeat("n", textLimit), S3: strings.Repeat("s", room-textLimit), Zone: zone}}.body()
		if err != nil {
			t.Fatal(err)
		}
		return pack(body, signature)
	}
	if encoded, err := try(""); err != nil || len(encoded) != dataLimit {
		t.Errorf("%d bytes, %v", len(encoded), err)
	}
	if _, err := try("z"); !errors.Is(err, ErrTooLong) {
		t.Errorf("one byte too many: %v", err)
	}
	if _, err := pack(nil, make([]byte, 256)); !errors.Is(err, ErrTooLong) {
		t.Errorf("a signature of 256 bytes: %v", err)
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	encoded := encode(t, golden)
	for i := range 8 * len(encoded) {
		bad := bytes.Clone(encoded)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decode(bad); err == nil {
			t.Errorf("bit %d", i)
		}
	}
	for n := range encoded {
		if _, err := decode(encoded[:n]); err == nil {
			t.Errorf("cut at %d", n)
		}
	}
}

func TestLaterFieldsAreSkipped(t *testing.T) {
	body, err := golden.body()
	if err != nil {
		t.Fatal(err)
	}
	later, err := pack(append(body, "what comes next year"...), []byte("signature"))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decode(later); err != nil || back != golden {
		t.Errorf("%+v, %v", back, err)
	}
	if _, signature, err := unpack(later); err != nil || string(signature) != "signature" {
		t.Errorf("%q, %v", signature, err)
	}
}

func TestTheUnsignedFormatIsRefused(t *testing.T) {
	old, err := os.ReadFile("testdata/data-1.golden")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(old); !errors.Is(err, errBadData) {
		t.Errorf("format 1: %v", err)
	}
}

func FuzzData(f *testing.F) {
	f.Add(encode(f, golden))
	f.Add([]byte(dataMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it is, and with length and checksum made right, else nothing past them is reached.
		right := bytes.Clone(b)
		if len(right) >= dataHead+dataSum && len(right) <= dataLimit {
			copy(right, dataMagic)
			binary.LittleEndian.PutUint16(right[len(dataMagic):], uint16(len(right)))
			body := right[:len(right)-dataSum]
			binary.LittleEndian.PutUint32(right[len(body):], crc32.Checksum(body, castagnoli))
		}
		for _, in := range [][]byte{b, right} {
			body, signature, err := unpack(in)
			if err != nil {
				continue
			}
			if again, err := pack(body, signature); err != nil || !bytes.Equal(again, in) {
				t.Fatalf("%q was read and is written as %q, %v", in, again, err)
			}
			a, err := parse(body)
			if err != nil {
				continue
			}
			again, err := a.body()
			if err != nil {
				t.Fatalf("%+v was read and cannot be written: %v", a, err)
			}
			if back, err := parse(again); err != nil || back != a {
				t.Fatalf("%+v, %v", back, err)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add(nodeName{peerID(1), 1 << 40}.String())
	f.Add(peerID(1).String())
	f.Fuzz(func(t *testing.T, text string) {
		if name, err := parseName(text); err == nil && name.String() != text {
			t.Errorf("%q is read as %s", text, name)
		}
	})
}
