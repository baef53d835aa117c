package sigv4

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The published examples of the Amazon S3 API reference, "Authenticating Requests (AWS Signature Version 4)".
var (
	example   = Credentials{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	exampleAt = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
)

const exampleScope = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"

type vector struct {
	name, method, host, path, query string
	header                          map[string]string
	signed, signature               string
}

func (v vector) request(t *testing.T) *Request {
	t.Helper()
	path, err := DecodePath(v.path)
	if err != nil {
		t.Fatal(err)
	}
	query, err := ParseQuery(v.query)
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Method: v.method, Host: v.host, Path: path, Query: query, Header: http.Header{}}
	for name, value := range v.header {
		r.Header.Set(name, value)
	}
	if v.signed != "" {
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders="+v.signed+",Signature="+v.signature)
	}
	return r
}

const exampleHost = "examplebucket.s3.amazonaws.com"

func vectors() []vector {
	date := "20130524T000000Z"
	return []vector{
		{"get with range", "GET", exampleHost, "/test.txt", "",
			map[string]string{"Range": "bytes=0-9", "X-Amz-Content-Sha256": EmptySHA256, "X-Amz-Date": date},
			"host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"put with an odd key", "PUT", exampleHost, "/test%24file.text", "",
			map[string]string{"Date": "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Date": date, "X-Amz-Storage-Class": "REDUCED_REDUNDANCY",
				"X-Amz-Content-Sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
			"date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		{"sub-resource", "GET", exampleHost, "/", "lifecycle",
			map[string]string{"X-Amz-Content-Sha256": EmptySHA256, "X-Amz-Date": date},
			"host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"list", "GET", exampleHost, "/", "prefix=J&max-keys=2",
			map[string]string{"X-Amz-Content-Sha256": EmptySHA256, "X-Amz-Date": date},
			"host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
		{"presigned", "GET", exampleHost, "/test.txt",
			"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request" +
				"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host" +
				"&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", nil, "", ""},
	}
}

func TestPublishedRequestsVerify(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			r := v.request(t)
			claim, err := Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			if claim.AccessKey != example.AccessKey {
				t.Errorf("access key %q", claim.AccessKey)
			}
			if _, err := claim.Verify(r, example.SecretKey, exampleAt); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if _, err := claim.Verify(r, example.SecretKey+"x", exampleAt); !errors.Is(err, ErrSignature) {
				t.Errorf("another secret: %v, want ErrSignature", err)
			}
			r.Method = "DELETE"
			if _, err := claim.Verify(r, example.SecretKey, exampleAt); !errors.Is(err, ErrSignature) {
				t.Errorf("another method: %v, want ErrSignature", err)
			}
		})
	}
}

func TestPublishedPresignIsWhatWeMake(t *testing.T) {
	r := &Request{Method: "GET", Host: exampleHost, Path: "/test.txt", Header: http.Header{}}
	query := Presign(r, example, "us-east-1", exampleAt, 24*time.Hour)
	if !strings.HasSuffix(query, "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404") {
		t.Errorf("presigned query %s", query)
	}
}

// chunkedVector is one of the published chunked uploads of 65 KiB of "a".
type chunkedVector struct {
	payload, signed, seed, trailer string
	chunks                         []string
	trailerSignature               string
}

func chunkedVectors() map[string]chunkedVector {
	return map[string]chunkedVector{
		"signed": {StreamingSigned, "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
			"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9", "",
			[]string{"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
				"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"}, ""},
		"signed with trailer": {StreamingSignedTrailer, "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
			"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e", "x-amz-checksum-crc32c",
			[]string{"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2", "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
				"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"}, "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"},
	}
}

func (v chunkedVector) chain(t *testing.T) *Chain {
	t.Helper()
	header := map[string]string{"X-Amz-Date": "20130524T000000Z", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY", "X-Amz-Content-Sha256": v.payload,
		"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "66560", "Content-Length": "66824"}
	if v.trailer != "" {
		header["X-Amz-Trailer"] = v.trailer
	}
	r := vector{method: "PUT", host: "s3.amazonaws.com", path: "/examplebucket/chunkObject.txt", header: header, signed: v.signed, signature: v.seed}.request(t)
	claim, err := Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := claim.Verify(r, example.SecretKey, exampleAt)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func (v chunkedVector) body() []byte {
	var b bytes.Buffer
	b.WriteString("10000;chunk-signature=" + v.chunks[0] + "\r\n" + strings.Repeat("a", 65536) + "\r\n")
	b.WriteString("400;chunk-signature=" + v.chunks[1] + "\r\n" + strings.Repeat("a", 1024) + "\r\n")
	b.WriteString("0;chunk-signature=" + v.chunks[2] + "\r\n")
	if v.trailer != "" {
		b.WriteString("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:" + v.trailerSignature + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func (v chunkedVector) framing(t *testing.T) Framing {
	f := Framing{Chain: v.chain(t), Size: 66560}
	if v.trailer != "" {
		f.Trailer = []string{v.trailer}
	}
	return f
}

func TestPublishedChunkedUploadsVerify(t *testing.T) {
	for name, v := range chunkedVectors() {
		t.Run(name, func(t *testing.T) {
			r := NewChunkReader(bytes.NewReader(v.body()), v.framing(t))
			got, err := io.ReadAll(r)
			if err != nil || string(got) != strings.Repeat("a", 66560) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if v.trailer != "" && r.Trailer()[v.trailer] != "sOO8/Q==" {
				t.Errorf("trailer %v", r.Trailer())
			}
		})
	}
}

// TestAnyChangedByteIsRefused changes each byte of the framing and samples of the data.
func TestAnyChangedByteIsRefused(t *testing.T) {
	for name, v := range chunkedVectors() {
		body, f := v.body(), v.framing(t)
		tail := len(body) - 2 // the last CR LF ends nothing that could be lost
		for i := 0; i < tail; i++ {
			if i > 200 && i < 65000 && i%997 != 0 {
				continue
			}
			changed := bytes.Clone(body)
			changed[i] ^= 1
			got, err := io.ReadAll(NewChunkReader(bytes.NewReader(changed), f))
			if err == nil && !(name != "signed" && bytes.EqualFold(changed, body)) {
				t.Errorf("%s: byte %d changed from %q to %q and accepted (%d bytes)", name, i, body[i], changed[i], len(got))
			}
		}
		for _, cut := range []int{0, 1, 50, 90, 65000, 65700, len(body) - 180, len(body) - 100} {
			if v.trailer == "" && cut > len(body)-100 {
				continue
			}
			if _, err := io.ReadAll(NewChunkReader(bytes.NewReader(body[:cut]), f)); err == nil {
				t.Errorf("%s: body cut at %d was accepted", name, cut)
			}
		}
	}
}
