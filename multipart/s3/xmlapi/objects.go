package xmlapi

import (
	"bytes"
	"encoding/xml"
	"strconv"
)

// Objects are the objects of a listing. They are encoded without reflection, which took most of the time of a page of
// 1,000.
type Objects []Object

// MarshalXML implements xml.Marshaler. It writes the same bytes as package xml would for a []Object.
func (list Objects) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if len(list) == 0 {
		return nil
	}
	name := start.Name.Local
	var b bytes.Buffer
	b.Grow(len(list) * 320)
	for i := range list {
		if i > 0 { // the encoder itself writes the first start and the last end
			b.WriteString("</" + name + "><" + name + ">")
		}
		if err := list[i].write(&b); err != nil {
			return err
		}
	}
	return e.EncodeElement(struct {
		Inner []byte `xml:",innerxml"`
	}{b.Bytes()}, start)
}

// write writes what is inside of the element of an object.
func (o *Object) write(b *bytes.Buffer) error {
	w := elements{to: b}
	w.text("Key", o.Key)
	w.text("LastModified", o.LastModified)
	w.text("ETag", o.ETag)
	for _, name := range o.ChecksumAlgorithm {
		w.text("ChecksumAlgorithm", name)
	}
	if o.ChecksumType != "" {
		w.text("ChecksumType", o.ChecksumType)
	}
	w.text("Size", strconv.FormatInt(o.Size, 10))
	if o.Owner != nil {
		b.WriteString("<Owner>")
		w.text("ID", o.Owner.ID)
		w.text("DisplayName", o.Owner.DisplayName)
		b.WriteString("</Owner>")
	}
	w.text("StorageClass", o.StorageClass)
	return w.err
}

// elements writes elements that hold text.
type elements struct {
	to  *bytes.Buffer
	err error
}

func (w *elements) text(name, text string) {
	w.to.WriteByte('<')
	w.to.WriteString(name)
	w.to.WriteByte('>')
	if isPrintable(text) {
		w.printable(text)
	} else if err := xml.EscapeText(w.to, []byte(text)); err != nil {
		w.err = err
	}
	w.to.WriteString("</")
	w.to.WriteString(name)
	w.to.WriteByte('>')
}

// printable writes printable ASCII, escaped as package xml does.
func (w *elements) printable(text string) {
	from := 0
	for i := range len(text) {
		escaped := ""
		switch text[i] {
		case '"':
			escaped = "&#34;"
		case '\'':
			escaped = "&#39;"
		case '&':
			escaped = "&amp;"
		case '<':
			escaped = "&lt;"
		case '>':
			escaped = "&gt;"
		default:
			continue
		}
		w.to.WriteString(text[from:i])
		w.to.WriteString(escaped)
		from = i + 1
	}
	w.to.WriteString(text[from:])
}

// isPrintable tells whether a text is printable ASCII.
func isPrintable(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
