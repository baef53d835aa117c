package xmlapi

import (
	"encoding/xml"
	"fmt"
	"testing"
	"time"
)

// TestObjectsAreEncodedAsByReflection compares with what package xml makes of the same objects.
func TestObjectsAreEncodedAsByReflection(t *testing.T) {
	keys := []string{"", "plain/key", `"quoted"`, "'single'", "<&>", "tab\tnew\nline\rreturn", "\x00\x1f\x7f", "\xff\xfe", "\uFFFE", "ü€\U0010FFFF", "]]>", "a\xc3"}
	for n := range len(keys) + 1 {
		var list []Object
		for i, key := range keys[:n] {
			o := Object{Key: key, LastModified: Time(time.Unix(int64(i), 0)), ETag: `"e` + key + `"`, Size: int64(i) << 40, StorageClass: key}
			if i%2 == 0 {
				o.Owner = &Owner{ID: key, DisplayName: "name & " + key}
				o.ChecksumAlgorithm, o.ChecksumType = []string{"CRC32", "x" + key}, "FULL_OBJECT"
			}
			list = append(list, o)
		}
		got, err := Marshal(ListV2{Contents: list, CommonPrefixes: []CommonPrefix{{"after"}}})
		if err != nil {
			t.Fatal(err)
		}
		var plain struct {
			XMLName        xml.Name       `xml:"ListBucketResult"`
			Xmlns          string         `xml:"xmlns,attr"`
			Name           string         `xml:"Name"`
			Prefix         string         `xml:"Prefix"`
			KeyCount       int            `xml:"KeyCount"`
			MaxKeys        int            `xml:"MaxKeys"`
			IsTruncated    bool           `xml:"IsTruncated"`
			Contents       []Object       `xml:"Contents"`
			CommonPrefixes []CommonPrefix `xml:"CommonPrefixes"`
		}
		plain.Contents, plain.CommonPrefixes = list, []CommonPrefix{{"after"}}
		want, err := xml.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("%d objects:\n got %s\nwant %s", n, got, want)
		}
	}
}

func BenchmarkListing(b *testing.B) {
	list := ListV2{Xmlns: Namespace, Name: "bucket", Prefix: "list/", KeyCount: 1000, MaxKeys: 1000, IsTruncated: true}
	for i := range 1000 {
		list.Contents = append(list.Contents, Object{
			Key: fmt.Sprintf("list/%09d", i), LastModified: Time(time.Unix(int64(i), 0)), ETag: `"d41d8cd98f00b204e9800998ecf8427e"`,
			ChecksumAlgorithm: []string{"CRC32"}, ChecksumType: "FULL_OBJECT", Size: 4096, StorageClass: "STANDARD",
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(list); err != nil {
			b.Fatal(err)
		}
	}
}
