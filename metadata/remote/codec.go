package remote

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// codec writes and reads the values of one type. It is put together once, when the program starts.
type codec struct {
	append func(b []byte, v reflect.Value) []byte
	read   func(d *decoder, v reflect.Value)
	// zero tells whether a value is the one that a struct leaves out.
	zero func(v reflect.Value) bool
}

var (
	timeType    = reflect.TypeFor[time.Time]()
	stringsType = reflect.TypeFor[map[string]string]()
	bytesType   = reflect.TypeFor[map[string][]byte]()
)

// codecOf puts the codec of a type together. It panics on a type that the protocol does not know: that is a mistake in
// this program, and every type is put together before anything is served.
func codecOf(t reflect.Type) codec {
	switch t {
	case timeType:
		return codec{appendTime, readTime, func(v reflect.Value) bool { return timeOf(v).IsZero() }}
	case stringsType:
		return mapCodec[string]()
	case bytesType:
		return mapCodec[[]byte]()
	}
	c := codec{zero: reflect.Value.IsZero}
	switch t.Kind() {
	case reflect.Bool:
		c.append = func(b []byte, v reflect.Value) []byte {
			if v.Bool() {
				return append(b, 1)
			}
			return append(b, 0)
		}
		c.read = readBool
	case reflect.Int, reflect.Int64:
		c.append = func(b []byte, v reflect.Value) []byte { return binary.AppendVarint(b, v.Int()) }
		c.read = func(d *decoder, v reflect.Value) { v.SetInt(d.varint()) }
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		c.append = func(b []byte, v reflect.Value) []byte { return binary.AppendUvarint(b, v.Uint()) }
		c.read = readUint
	case reflect.String:
		c.append = func(b []byte, v reflect.Value) []byte { return appendText(b, v.String()) }
		c.read = func(d *decoder, v reflect.Value) { v.SetString(string(d.text())) }
	case reflect.Slice:
		return sliceCodec(t)
	case reflect.Pointer:
		return pointerCodec(t)
	case reflect.Struct:
		return structCodec(t)
	default:
		panic(fmt.Sprintf("remote: the protocol has no %v", t))
	}
	return c
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func readBool(d *decoder, v reflect.Value) {
	switch d.byte() {
	case 0:
	case 1:
		v.SetBool(true)
	default:
		d.fail("a bool that is neither 0 nor 1")
	}
}

func readUint(d *decoder, v reflect.Value) {
	n := d.uvarint()
	if v.OverflowUint(n) {
		d.fail("number is too large for its field")
		return
	}
	v.SetUint(n)
}

func timeOf(v reflect.Value) *time.Time { return v.Addr().Interface().(*time.Time) }

func appendTime(b []byte, v reflect.Value) []byte {
	t := timeOf(v)
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

func readTime(d *decoder, v reflect.Value) {
	seconds, nanos := d.varint(), d.uvarint()
	if nanos >= uint64(time.Second) {
		d.fail("more than a second of nanoseconds")
		return
	}
	*timeOf(v) = time.Unix(seconds, int64(nanos)).UTC()
}

func sliceCodec(t reflect.Type) codec {
	isNil := reflect.Value.IsNil
	if t.Elem().Kind() == reflect.Uint8 {
		return codec{
			append: func(b []byte, v reflect.Value) []byte { return appendText(b, v.Bytes()) },
			read:   func(d *decoder, v reflect.Value) { v.SetBytes(append([]byte{}, d.text()...)) },
			zero:   isNil,
		}
	}
	elem, size := codecOf(t.Elem()), int(t.Elem().Size())
	return codec{
		append: func(b []byte, v reflect.Value) []byte {
			b = binary.AppendUvarint(b, uint64(v.Len()))
			for i := range v.Len() {
				b = elem.append(b, v.Index(i))
			}
			return b
		},
		read: func(d *decoder, v reflect.Value) {
			n := d.count(size)
			if d.err != nil {
				return
			}
			v.Set(reflect.MakeSlice(t, n, n))
			for i := 0; i < n && d.err == nil; i++ {
				elem.read(d, v.Index(i))
			}
		},
		zero: isNil,
	}
}

// mapEntry is about what an entry of a map takes in memory beside its bytes.
const mapEntry = 64

func mapCodec[V string | []byte]() codec {
	of := func(v reflect.Value) *map[string]V { return v.Addr().Interface().(*map[string]V) }
	return codec{
		append: func(b []byte, v reflect.Value) []byte {
			m := *of(v)
			b = binary.AppendUvarint(b, uint64(len(m)))
			names := make([]string, 0, 16)
			for name := range m {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				b = appendText(appendText(b, name), m[name])
			}
			return b
		},
		read: func(d *decoder, v reflect.Value) {
			n := d.count(mapEntry)
			if d.err != nil {
				return
			}
			m := make(map[string]V, n)
			last := ""
			for i := 0; i < n && d.err == nil; i++ {
				name := string(d.text())
				if i > 0 && name <= last {
					d.fail("names of a map are not in ascending order")
				}
				m[name], last = V(append([]byte{}, d.text()...)), name
			}
			*of(v) = m
		},
		zero: reflect.Value.IsNil,
	}
}

func pointerCodec(t reflect.Type) codec {
	elem, size := codecOf(t.Elem()), int(t.Elem().Size())
	return codec{
		append: func(b []byte, v reflect.Value) []byte { return elem.append(b, v.Elem()) },
		read: func(d *decoder, v reflect.Value) {
			if d.charge(size) {
				v.Set(reflect.New(t.Elem()))
				elem.read(d, v.Elem())
			}
		},
		zero: reflect.Value.IsNil,
	}
}

// field is one field of a struct: its number on the wire, and its place in the struct.
type field struct {
	number byte
	index  int
	codec  codec
}

func structCodec(t reflect.Type) codec {
	fields := fieldsOf(t)
	return codec{
		append: func(b []byte, v reflect.Value) []byte {
			for i := range fields {
				f := &fields[i]
				if value := v.Field(f.index); !f.codec.zero(value) {
					b = f.codec.append(append(b, f.number), value)
				}
			}
			return append(b, 0)
		},
		read: func(d *decoder, v reflect.Value) { readStruct(d, v, fields) },
		zero: func(v reflect.Value) bool {
			for i := range fields {
				if f := &fields[i]; !f.codec.zero(v.Field(f.index)) {
					return false
				}
			}
			return true
		},
	}
}

func readStruct(d *decoder, v reflect.Value, fields []field) {
	next := 0
	for d.err == nil {
		number := d.byte()
		if number == 0 {
			return
		}
		for next < len(fields) && fields[next].number < number {
			next++
		}
		if next == len(fields) || fields[next].number != number {
			d.fail("field is not known, or out of order")
			return
		}
		f := &fields[next]
		next++
		value := v.Field(f.index)
		f.codec.read(d, value)
		if d.err == nil && f.codec.zero(value) {
			d.fail("zero value of a field is written out")
		}
	}
}

// fieldsOf numbers the fields of a struct by its line in the schema.
func fieldsOf(t reflect.Type) []field {
	line, known := schema[t]
	if !known {
		panic(fmt.Sprintf("remote: the schema has no %v", t))
	}
	var fields []field
	for i, name := range strings.Fields(line) {
		f, found := t.FieldByName(name)
		if !found || len(f.Index) != 1 {
			panic(fmt.Sprintf("remote: %v has no field %s", t, name))
		}
		fields = append(fields, field{number: byte(i + 1), index: f.Index[0], codec: codecOf(f.Type)})
	}
	if len(fields) != t.NumField() || len(fields) > 255 {
		panic(fmt.Sprintf("remote: %v has %d fields, the schema %d", t, t.NumField(), len(fields)))
	}
	return fields
}

// message is the codec of a whole message, or of one item of a stream.
type message[T any] struct{ codec codec }

func messageOf[T any]() message[T] { return message[T]{codecOf(reflect.TypeFor[T]())} }

func (m message[T]) append(b []byte, v *T) []byte {
	return m.codec.append(b, reflect.ValueOf(v).Elem())
}

func (m message[T]) read(d *decoder, v *T) error {
	m.codec.read(d, reflect.ValueOf(v).Elem())
	return d.err
}
