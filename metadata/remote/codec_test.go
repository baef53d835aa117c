package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/wire"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/tests/expect"
)

// filled makes a value in which every field is set, each to something of its own.
func filled[T any]() T {
	var v T
	n := 0
	fill(reflect.ValueOf(&v).Elem(), &n)
	return v
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(int64(*n)-3, int64(*n)).UTC()))
		return
	case map[string]string:
		v.Set(reflect.ValueOf(map[string]string{fmt.Sprint("n", *n): "v\xff", "": "", "a": "b"}))
		return
	case map[string][]byte:
		v.Set(reflect.ValueOf(map[string][]byte{fmt.Sprint("n", *n): {0xff, 0}}))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n) * -1000)
	case reflect.Uint8:
		v.SetUint(uint64(*n%200) + 1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n) * 1000)
	case reflect.String:
		v.SetString(fmt.Sprint("text", *n, "\xff\x00"))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic(v.Type().String())
	}
}

// sample is a message of one procedure: its question and its answer or item, with every field set.
type sample struct {
	name  string
	bytes []byte
	// read decodes bytes as such a message, and encodes what it found again.
	read func(b []byte) ([]byte, error)
}

func sampleOf[T any](name string, m message[T]) sample {
	v := filled[T]()
	return sample{name, m.append(nil, &v), func(b []byte) ([]byte, error) {
		d := newDecoder(b)
		v := new(T)
		if err := m.read(d, v); err != nil {
			return nil, err
		}
		if err := d.end(); err != nil {
			return nil, err
		}
		return m.append(nil, v), nil
	}}
}

func (p *procedure[Q, A]) samples() []sample {
	return []sample{sampleOf(p.name+" question", p.question), sampleOf(p.name+" answer", p.answer)}
}

func (s *stream[Q, T]) samples() []sample {
	return []sample{sampleOf(s.name+" question", s.question), sampleOf(s.name+" item", s.item)}
}

func allSamples() []sample {
	all := []sample{sampleOf("fault", faults)}
	for _, p := range procedures {
		all = append(all, p.(interface{ samples() []sample }).samples()...)
	}
	return all
}

// TestEveryFieldTravels sets every field of every message and compares what arrives.
func TestEveryFieldTravels(t *testing.T) {
	check := func(name string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
	}
	check("put", roundtrip(t, put.question), filled[metadata.Put]())
	check("complete", roundtrip(t, complete.question), filled[metadata.Complete]())
	check("surveyed", roundtrip(t, survey.item), filled[metadata.Surveyed]())
	check("page", roundtrip(t, list.answer), filled[metadata.Page]())
	check("fault", roundtrip(t, faults), filled[fault]())
	for _, s := range allSamples() {
		again, err := s.read(s.bytes)
		if err != nil || !bytes.Equal(again, s.bytes) {
			t.Errorf("%s: %v, %x became %x", s.name, err, s.bytes, again)
		}
	}
}

func roundtrip[T any](t *testing.T, m message[T]) T {
	t.Helper()
	v := filled[T]()
	var back T
	d := newDecoder(m.append(nil, &v))
	if err := m.read(d, &back); err != nil {
		t.Fatal(err)
	}
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	return back
}

// TestNilAndEmptyAreTwoThings keeps what Complete tells apart: no checksums, and checksums that are none.
func TestNilAndEmptyAreTwoThings(t *testing.T) {
	for _, want := range []metadata.Complete{{}, {Checksums: map[string]string{}, Parts: []metadata.CompletePart{}}} {
		var got metadata.Complete
		if err := complete.question.read(newDecoder(complete.question.append(nil, &want)), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %#v, want %#v", got, want)
		}
	}
	local := time.Date(2026, 1, 1, 0, 0, 0, 1, time.FixedZone("", 3600))
	q := freedArgs{Now: local}
	var got freedArgs
	if err := freed.question.read(newDecoder(freed.question.append(nil, &q)), &got); err != nil || !got.Now.Equal(local) {
		t.Fatalf("time %v became %v: %v", local, got.Now, err)
	}
	// A zero time in a zone is a zero time.
	zoned := metadata.Upload{Started: time.Time{}.In(time.FixedZone("", 3600))}
	if b := messageOf[metadata.Upload]().append(nil, &zoned); len(b) != 1 {
		t.Fatalf("zero upload is %x", b)
	}
}

// TestMalformedMessagesAreRefused decodes what no encoder writes.
func TestMalformedMessagesAreRefused(t *testing.T) {
	m := messageOf[metadata.List]()
	for why, b := range map[string][]byte{
		"empty":                   {},
		"unknown field":           {6, 0},
		"fields out of order":     {5, 2, 1, 1, 0},
		"field twice":             {5, 2, 5, 2, 0},
		"zero written out":        {1, 0, 0},
		"number not the shortest": {1, 0x81, 0, 0},
		"number too long":         {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0},
		"text beyond the end":     {2, 200, 1, 'a', 0},
		"no end":                  {1, 1},
		"bytes behind the end":    {1, 1, 0, 0},
	} {
		d := newDecoder(b)
		var l metadata.List
		if err := errors.Join(m.read(d, &l), d.end()); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, decoded %+v", why, err, l)
		}
	}
	page := messageOf[metadata.Page]()
	// A million versions of one byte each would take half a gigabyte.
	b := append([]byte{1, 0xc0, 0x84, 0x3d}, make([]byte, 1_000_001)...)
	d := newDecoder(b)
	var p metadata.Page
	if err := page.read(d, &p); !errors.Is(err, errMalformed) || p.Versions != nil {
		t.Errorf("a million empty versions: %v, %d decoded", err, len(p.Versions))
	}
}

// golden is the schema with the bytes of every message.
func golden() []byte {
	var b bytes.Buffer
	var lines []string
	for t, fields := range schema {
		var typed []string
		for _, name := range strings.Fields(fields) {
			f, _ := t.FieldByName(name)
			typed = append(typed, name+" "+f.Type.String())
		}
		lines = append(lines, fmt.Sprintf("struct %v: %s\n", t, strings.Join(typed, ", ")))
	}
	slices.Sort(lines)
	for _, line := range lines {
		b.WriteString(line)
	}
	for _, s := range sentinels {
		fmt.Fprintf(&b, "error %d: %v\n", s.code, s.err)
	}
	for _, s := range allSamples() {
		fmt.Fprintf(&b, "%s: %x\n", s.name, s.bytes)
	}
	frame := append(beginFrame(nil), "payload"...)
	frameFormat.End(frame, kindQuestion)
	fmt.Fprintf(&b, "frame of a question: %x\n", frame)
	op := metadata.WithOp(context.Background(), metadata.Op{Session: 3, Seq: 300})
	fmt.Fprintf(&b, "frame of a write with an Op: %x\n", deleteRow.frame(op, nil, &metadata.Row{Key: []byte("key")}))
	return b.Bytes()
}

// TestBytesStayAsTheyWere compares every byte of the protocol with the golden file of its format.
func TestBytesStayAsTheyWere(t *testing.T) {
	expect.Golden(t, "format-1.golden", golden())
}

// FuzzMessages wants of every byte string that decodes, as whatever message, that it is the one encoding of what it says.
func FuzzMessages(f *testing.F) {
	all := allSamples()
	for i, s := range all {
		f.Add(uint8(i), s.bytes)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		s := all[int(which)%len(all)]
		if again, err := s.read(b); err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%s: %x is decoded, and encoded as %x", s.name, b, again)
		}
	})
}

// FuzzFrames reads frames off any bytes.
func FuzzFrames(f *testing.F) {
	frame := append(beginFrame(nil), "payload"...)
	frameFormat.End(frame, kindAnswer)
	f.Add(frame)
	f.Add(append(frame[:frameHead:frameHead], "paymoad"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, payload, err := frameFormat.Read(bytes.NewReader(b), nil, 1<<20)
		if err != nil {
			return
		}
		again := append(beginFrame(nil), payload...)
		frameFormat.End(again, kind)
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x was read as kind %d with %x", b, kind, payload)
		}
	})
}

// TestFramesTakeMemoryAsTheyArrive promises 64 MiB and sends none of it.
func TestFramesTakeMemoryAsTheyArrive(t *testing.T) {
	frame := append(beginFrame(nil), make([]byte, 1000)...)
	frameFormat.End(frame, kindAnswer)
	frame[7] = 3 // 48 MiB more
	_, payload, err := frameFormat.Read(bytes.NewReader(frame), nil, maxAnswer)
	if err == nil || cap(payload) > 2*keptBuffer {
		t.Fatalf("%v, %d bytes taken", err, cap(payload))
	}
	if _, _, err := frameFormat.Read(bytes.NewReader(frame), nil, 1<<20); !errors.Is(err, wire.ErrMalformed) {
		t.Fatalf("frame over the limit: %v", err)
	}
}
