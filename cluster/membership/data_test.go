package membership

import (
	"bytes"
	"encoding/binary"
	"flag"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden file anew")

var golden = announcement{leaving: true, Data: Data{
	Name: "größe-1", Zone: "zone a", Rack: "r12", Peer: "[fd00::12]:7001", S3: "s3.example.org:9000",
	Format: 3, Command: 0x01020304, Incarnation: 1 << 40,
}}

func TestGoldenData(t *testing.T) {
	const path = "testdata/data-1.golden"
	got, err := golden.encode()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the format has changed without its number:\n%q\n%q", got, want)
	}
	if back, err := decode(want); err != nil || back != golden {
		t.Errorf("%+v, %v", back, err)
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
		a := announcement{leaving: rapid.Bool().Draw(t, "leaving"), Data: Data{
			Name: text.Draw(t, "name"), Zone: text.Draw(t, "zone"), Rack: text.Draw(t, "rack"), Peer: text.Draw(t, "peer"), S3: text.Draw(t, "s3"),
			Format: rapid.Uint32().Draw(t, "format"), Command: rapid.Uint32().Draw(t, "command"), Incarnation: rapid.Uint64().Draw(t, "incarnation"),
		}}
		encoded, err := a.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(encoded); err != nil || back != a {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}

func TestTheLongestDataFits(t *testing.T) {
	room := dataLimit - dataHead - dataSum - len(golden.texts())
	a := announcement{Data: Data{Name: strings.Repeat("n", textLimit), S3: strings.Repeat("s", room-textLimit)}}
	if encoded, err := a.encode(); err != nil || len(encoded) != dataLimit {
		t.Errorf("%d bytes, %v", len(encoded), err)
	}
	a.Zone = "z"
	if _, err := a.encode(); err == nil {
		t.Error("one byte too many was taken")
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	encoded, err := golden.encode()
	if err != nil {
		t.Fatal(err)
	}
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
	encoded, err := golden.encode()
	if err != nil {
		t.Fatal(err)
	}
	later := append(encoded[:len(encoded)-dataSum], "what comes next year"...)
	binary.LittleEndian.PutUint16(later[len(dataMagic):], uint16(len(later)+dataSum))
	later = binary.LittleEndian.AppendUint32(later, crc32.Checksum(later, castagnoli))
	if back, err := decode(later); err != nil || back != golden {
		t.Errorf("%+v, %v", back, err)
	}
}

func FuzzData(f *testing.F) {
	encoded, err := golden.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
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
			a, err := decode(in)
			if err != nil {
				continue
			}
			again, err := a.encode()
			if err != nil {
				t.Fatalf("%+v was read and cannot be written: %v", a, err)
			}
			if back, err := decode(again); err != nil || back != a {
				t.Fatalf("%+v, %v", back, err)
			}
		}
	})
}
