package replicas

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// goldenHosted is what testdata/1.hex holds.
var goldenHosted = []Hosted{{Group: 1, Replica: 1, Leads: true}, {Group: 2, Replica: ReplicaID(1<<40, 65535)}, {Group: 1 << 60, Replica: ReplicaID(7, 3)}}

// golden reads testdata/1.hex: a request in the first line, an answer in the second.
func golden(t testing.TB) (request, hosted []byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/1.hex")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	request, err = hex.DecodeString(lines[0])
	if err == nil {
		hosted, err = hex.DecodeString(lines[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	return request, hosted
}

// TestTheFormatIsWhatItWas compares with what the first version wrote.
func TestTheFormatIsWhatItWas(t *testing.T) {
	request, hosted := golden(t)
	if got := encodeRequest(2, ReplicaID(5, 9)); !bytes.Equal(got, request) {
		t.Errorf("request %x, want %x", got, request)
	}
	if got := encodeHosted(goldenHosted); !bytes.Equal(got, hosted) {
		t.Errorf("answer %x, want %x", got, hosted)
	}
	group, replica, err := decodeRequest(request)
	if err != nil || group != 2 || replica != 5<<16|9 {
		t.Errorf("group %d, replica %x, %v", group, replica, err)
	}
	if list, err := decodeHosted(hosted); err != nil || !slices.Equal(list, goldenHosted) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestOtherBytesAreRefused(t *testing.T) {
	request, hosted := golden(t)
	for _, b := range [][]byte{nil, request[:15], append(slices.Clone(request), 0)} {
		if _, _, err := decodeRequest(b); !errors.Is(err, errWire) {
			t.Errorf("request of %d bytes: %v", len(b), err)
		}
	}
	flags := slices.Clone(hosted)
	flags[16] = 2
	for _, b := range [][]byte{hosted[:23], hosted[:25], flags, make([]byte, hostedSize*(maxHosted+1))} {
		if _, err := decodeHosted(b); !errors.Is(err, errWire) {
			t.Errorf("answer of %d bytes: %v", len(b), err)
		}
	}
	if list, err := decodeHosted(make([]byte, hostedSize*maxHosted)); err != nil || len(list) != maxHosted {
		t.Errorf("the longest answer: %d, %v", len(list), err)
	}
}

// FuzzDecode reads anything: what is taken is written again as it was.
func FuzzDecode(f *testing.F) {
	request, hosted := golden(f)
	f.Add(request)
	f.Add(hosted)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if group, replica, err := decodeRequest(b); err == nil && !bytes.Equal(encodeRequest(group, replica), b) {
			t.Errorf("request %x is not what it was", b)
		}
		if list, err := decodeHosted(b); err == nil && !bytes.Equal(encodeHosted(list), b) {
			t.Errorf("answer %x is not what it was", b)
		}
	})
}
