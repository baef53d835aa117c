package xmlapi

import (
	"bytes"
	"encoding/xml"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestEveryAnswerIsWellFormed(t *testing.T) {
	for c := range 0x300 {
		key := "a" + string(rune(c)) + "b"
		checkWellFormed(t, key)
	}
	for _, key := range []string{"\xff\xfe", "\uFFFE", "\uFFFF", "]]>", "<!--", "&#0;", "\U0010FFFF", "a\xc3", "\ud7ff"} {
		checkWellFormed(t, key)
	}
}

func checkWellFormed(t *testing.T, key string) {
	t.Helper()
	data, err := Marshal(ListV1{Prefix: key, Contents: []Object{{Key: key}}})
	if err != nil {
		t.Fatalf("%q: %v", key, err)
	}
	var back ListV1
	if err := xml.Unmarshal(data, &back); err != nil {
		t.Errorf("%q gives XML that is not well-formed: %v", key, err)
		return
	}
	if Representable(key) != (back.Contents[0].Key == key) {
		t.Errorf("%q: Representable is %v, and it came back as %q", key, Representable(key), back.Contents[0].Key)
	}
}

func TestDecodersAreStrict(t *testing.T) {
	var d Delete
	good := `<?xml version="1.0"?><Delete xmlns="` + Namespace + `"><Quiet>true</Quiet><Object><Key> a </Key><VersionId>v</VersionId></Object><Unknown>x</Unknown></Delete>` + "\n<!-- end -->"
	if err := Unmarshal([]byte(good), &d); err != nil || !d.Quiet || d.Objects[0].Key != " a " {
		t.Errorf("%+v, %v", d, err)
	}
	for _, bad := range []string{"", " ", "x", "<Delete>", "</Delete>", "<Delete/><Delete/>", "<Delete/>x", "<!DOCTYPE a><Delete/>", "<Delete><!DOCTYPE a></Delete>", "<Other/>", "<Delete><Quiet>maybe</Quiet></Delete>",
		"<Delete>&undefined;</Delete>", "<Delete>\x01</Delete>", "<Delete>\xff</Delete>", "<Delete a=1/>", "<Delete>" + strings.Repeat("<a>", 16) + strings.Repeat("</a>", 16) + "</Delete>"} {
		if err := Unmarshal([]byte(bad), new(Delete)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60q: %v, want ErrMalformed", bad, err)
		}
	}
	if err := Unmarshal([]byte("<Delete>"+strings.Repeat("<a>", 15)+strings.Repeat("</a>", 15)+"</Delete>"), new(Delete)); err != nil {
		t.Errorf("16 levels: %v", err)
	}
	var complete CompleteMultipartUpload
	if err := Unmarshal([]byte("<CompleteMultipartUpload><Part><PartNumber>99999999999999999999</PartNumber></Part></CompleteMultipartUpload>"), &complete); !errors.Is(err, ErrMalformed) {
		t.Errorf("a part number beyond all bounds: %v", err)
	}
}

// fuzz decodes arbitrary bytes; what was accepted must survive being written and read again.
func fuzz[T any](f *testing.F, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second T
		if Unmarshal(body, &first) != nil {
			return
		}
		data, err := Marshal(first)
		if err != nil {
			t.Fatalf("accepted and cannot be written: %v", err)
		}
		if err := Unmarshal(data, &second); err != nil {
			t.Fatalf("accepted and cannot be read again: %v\n%s", err, data)
		}
		again, err := Marshal(second)
		if err != nil || !bytes.Equal(clean(data), clean(again)) {
			t.Errorf("%v: %s became %s", reflect.TypeFor[T](), data, again)
		}
	})
}

// clean takes the namespace out, which a reader repeats.
func clean(data []byte) []byte {
	return bytes.ReplaceAll(data, []byte(` xmlns="`+Namespace+`"`), nil)
}

func FuzzDelete(f *testing.F) {
	fuzz[struct {
		XMLName xml.Name       `xml:"Delete"`
		Objects []DeleteObject `xml:"Object"`
		Quiet   bool           `xml:"Quiet"`
	}](f, "<Delete><Object><Key>k</Key></Object></Delete>", "<!DOCTYPE a><Delete/>")
}

func FuzzComplete(f *testing.F) {
	fuzz[struct {
		XMLName xml.Name       `xml:"CompleteMultipartUpload"`
		Parts   []CompletePart `xml:"Part"`
	}](f, "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>")
}

func FuzzTagging(f *testing.F) {
	fuzz[Tagging](f, "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>")
}

func FuzzVersioning(f *testing.F) {
	fuzz[VersioningConfiguration](f, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
}
