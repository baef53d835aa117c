package sigv4

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOurOwnSignaturesVerify(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.FixedZone("x", 3600))
	cred := Credentials{"key/with/slashes", "s"}
	for _, target := range []string{"/", "/b/k", "/b/a%20b", "/b/a+b%2B", "/b//x/./../y", "/b/%E6%BC%A2", "/b/k?uploads", "/b/k?a=b&a=a&c=%20+%2F&d", "/b?list-type=2&prefix=a%2Fb;c", "/b/'()*!~"} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		u.Scheme, u.Host = "http", "host:9000"
		client := &http.Request{Method: "PUT", URL: u, Header: http.Header{"X-Amz-Meta-A": {" a   b ", "c"}, "Content-Type": {"text/plain"}, "User-Agent": {"x"}}}
		signed, err := FromClient(client)
		if err != nil {
			t.Fatal(err)
		}
		Sign(signed, cred, "anywhere-1", now)
		server := &http.Request{Method: "PUT", RequestURI: target, Host: "host:9000", Header: client.Header.Clone(), ContentLength: 5}
		received, err := FromServer(server)
		if err != nil {
			t.Fatal(err)
		}
		claim, err := Parse(received)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		if _, err := claim.Verify(received, cred.SecretKey, now); err != nil || claim.AccessKey != cred.AccessKey {
			t.Errorf("%s: %v, key %q", target, err, claim.AccessKey)
		}
		server.Header.Set("User-Agent", "another") // not signed: proxies change it
		if _, err := claim.Verify(received, cred.SecretKey, now); err != nil {
			t.Errorf("%s with another agent: %v", target, err)
		}
		for name, values := range server.Header {
			if name == "User-Agent" || name == "Authorization" || name == "X-Amz-Content-Sha256" || name == "X-Amz-Date" {
				continue
			}
			changed := *received
			changed.Header = received.Header.Clone()
			changed.Header[name] = append(slices.Clone(values), "more")
			if _, err := claim.Verify(&changed, cred.SecretKey, now); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: header %s changed: %v", target, name, err)
			}
		}
		raw := Presign(signed, cred, "x", now, time.Minute)
		query, err := ParseQuery(raw)
		if err != nil {
			t.Fatal(err)
		}
		received.Query = query
		received.Header.Del("Authorization")
		claim, err = Parse(received)
		if err != nil {
			t.Fatalf("%s presigned: %v", target, err)
		}
		if _, err := claim.Verify(received, cred.SecretKey, now); err != nil {
			t.Errorf("%s presigned: %v", target, err)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, Credentials{"key", "hush"}); strings.Contains(text, "hush") {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

func TestTargetsAreDecodedOnceAndNeverCleaned(t *testing.T) {
	for target, want := range map[string]string{
		"/b//a": "/b//a", "/b/./a/../c": "/b/./a/../c", "/b/%2e%2e%2f": "/b/../", "/b/%252e": "/b/%2e", "/b/a+b": "/b/a+b", "/b/%00": "/b/\x00",
		"http://h/b/k": "/b/k", "http://h": "/", "http://h?x=y": "/", "https://h:1/b/k?x": "/b/k", "/b/k#f": "/b/k#f",
	} {
		r, err := FromServer(&http.Request{RequestURI: target, Header: http.Header{}})
		if err != nil || r.Path != want {
			t.Errorf("%s: %q, %v; want %q", target, r.Path, err, want)
		}
	}
	for _, target := range []string{"", "*", "b/k", "/%", "/%2", "/%zz", "/b?a=%", "/b?%g0=1", "/?" + strings.Repeat("a&", MaxParams+1)} {
		if r, err := FromServer(&http.Request{RequestURI: target, Header: http.Header{}}); !errors.Is(err, ErrURI) {
			t.Errorf("%.20q: %+v, %v; want ErrURI", target, r, err)
		}
	}
	q, err := ParseQuery("b=2&a&a=1&&c=x=y;z&d=%2B+")
	if err != nil || q.canonical() != "a=&a=1&b=2&c=x%3Dy%3Bz&d=%2B%20" || q.Get("c") != "x=y;z" || !q.Has("a") || q.Has("e") {
		t.Errorf("query %v, %v: %s", q, err, q.canonical())
	}
	if q := (Query{{"a-", "1"}, {"a", "2"}}); q.canonical() != "a=2&a-=1" {
		t.Errorf("sorted by name first: %s", q.canonical())
	}
}

// signedBody frames data in chunks as a client does.
func signedBody(chain Chain, data []byte, chunk int, trailer string) []byte {
	var b bytes.Buffer
	for {
		n := min(chunk, len(data))
		sum := sha256.Sum256(data[:n])
		chain.previous = chain.next("AWS4-HMAC-SHA256-PAYLOAD", EmptySHA256, hex.EncodeToString(sum[:]))
		fmt.Fprintf(&b, "%x;chunk-signature=%s\r\n", n, chain.previous)
		if n == 0 {
			break
		}
		b.Write(data[:n])
		b.WriteString("\r\n")
		data = data[n:]
	}
	if trailer != "" {
		fmt.Fprintf(&b, "%s\n\r\nx-amz-trailer-signature:%s\r\n", trailer, chain.next("AWS4-HMAC-SHA256-TRAILER", hexSHA256(trailer+"\n")))
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func testChain() Chain {
	sc := scope{"20260101", "r", service}
	return Chain{key: sc.key("secret"), at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), scope: sc, previous: strings.Repeat("0", 64)}
}

func TestSignedChunksOfAllSizes(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	for _, size := range []int{0, 1, MinChunk - 1, MinChunk, MinChunk + 1, 3*MinChunk + 5, len(data)} {
		for _, read := range []int{1, 7, 4096, 1 << 20} {
			chain := testChain()
			body := signedBody(chain, data[:size], MinChunk, "x-amz-checksum-crc32:AAAAAA==")
			r := NewChunkReader(bytes.NewReader(body), Framing{Chain: &chain, Trailer: []string{"x-amz-checksum-crc32"}, Size: int64(size)})
			var got []byte
			var err error
			for buf := make([]byte, read); err == nil; {
				var n int
				n, err = r.Read(buf)
				got = append(got, buf[:n]...)
			}
			if !errors.Is(err, io.EOF) || !bytes.Equal(got, data[:size]) || r.Trailer()["x-amz-checksum-crc32"] != "AAAAAA==" {
				t.Errorf("%d bytes by %d: %d bytes, %v", size, read, len(got), err)
			}
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %v", err)
			}
		}
	}
	chain := testChain()
	body := signedBody(chain, data[:2*MinChunk], MinChunk-1, "")
	if _, err := io.ReadAll(NewChunkReader(bytes.NewReader(body), Framing{Chain: &chain, Size: 2 * MinChunk})); !errors.Is(err, ErrChunkSize) {
		t.Errorf("small chunks: %v, want ErrChunkSize", err)
	}
}

func TestSwappedChunksAreRefused(t *testing.T) {
	data := append(bytes.Repeat([]byte("a"), MinChunk), bytes.Repeat([]byte("b"), MinChunk)...)
	chain := testChain()
	body := signedBody(chain, data, MinChunk, "")
	line := bytes.IndexByte(body, '\n') + 1
	frame := line + MinChunk + 2
	swapped := slices.Concat(body[frame:2*frame], body[:frame], body[2*frame:])
	got, err := io.ReadAll(NewChunkReader(bytes.NewReader(swapped), Framing{Chain: &chain, Size: int64(len(data))}))
	if !errors.Is(err, ErrSignature) || len(got) >= MinChunk {
		t.Errorf("%d bytes, %v; want ErrSignature before the first chunk is whole", len(got), err)
	}
}

// FuzzChunks holds the reader to its promise for any bytes in all four modes: never more than the declared size, and
// io.EOF only for a body that, written out again, is what was said.
func FuzzChunks(f *testing.F) {
	chain := testChain()
	f.Add(signedBody(chain, bytes.Repeat([]byte("x"), 10), 10, ""), int64(10), true, false)
	f.Add(signedBody(chain, bytes.Repeat([]byte("x"), 9000), 9000, "x-amz-checksum-crc32:AAAAAA=="), int64(9000), true, true)
	f.Add([]byte("4\r\nthis\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"), int64(4), false, true)
	f.Add([]byte("4\r\nthis\r\n0\r\n\r\n"), int64(4), false, false)
	f.Add([]byte("FFFFFFFFFFFFFFFF\r\n"), int64(4), false, false)
	f.Fuzz(func(t *testing.T, body []byte, size int64, signed, trailer bool) {
		framing := Framing{Size: size}
		if signed {
			chain := testChain()
			framing.Chain = &chain
		}
		if trailer {
			framing.Trailer = []string{"x-amz-checksum-crc32"}
		}
		r := NewChunkReader(bytes.NewReader(body), framing)
		got, err := io.ReadAll(r)
		switch {
		case int64(len(got)) > max(size, 0) || len(got) > len(body):
			t.Errorf("%d bytes of %d declared", len(got), size)
		case err == nil && int64(len(got)) != size:
			t.Errorf("%d bytes accepted, %d declared", len(got), size)
		case err == nil && trailer != (len(r.Trailer()) == 1):
			t.Errorf("trailer %v", r.Trailer())
		case err == nil && signed && !bytes.Contains(body, []byte("chunk-signature=")):
			t.Error("accepted without a signature")
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add("GET", "/b/k?x=y", "AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=00", "20130524T000000Z", Unsigned)
	f.Add("PUT", "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+url.QueryEscape(exampleScope)+"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=00", "", "", "")
	f.Add("GET", "/", "AWS a:b", "", "")
	f.Fuzz(func(t *testing.T, method, target, authorization, date, payload string) {
		h := http.Header{}
		for name, value := range map[string]string{"Authorization": authorization, "X-Amz-Date": date, "X-Amz-Content-Sha256": payload} {
			if value != "" {
				h.Set(name, value)
			}
		}
		r, err := FromServer(&http.Request{Method: method, RequestURI: target, Host: "h", Header: h})
		if err != nil {
			return
		}
		if decoded, err := DecodePath(EncodePath(r.Path)); err != nil || decoded != r.Path {
			t.Errorf("path %q does not come back: %q, %v", r.Path, decoded, err)
		}
		if again, err := ParseQuery(r.Query.canonical()); err != nil || again.canonical() != r.Query.canonical() {
			t.Errorf("query %v does not come back", r.Query)
		}
		claim, err := Parse(r)
		if err != nil {
			return
		}
		if _, err := claim.Verify(r, "a secret that nobody knows", claim.at); err == nil {
			t.Errorf("a forged request was proved: %+v", claim)
		}
	})
}

func FuzzSign(f *testing.F) {
	f.Add("PUT", "/b/k%20", "a=b", "value", uint16(3))
	f.Fuzz(func(t *testing.T, method, path, query, value string, flip uint16) {
		decoded, err := DecodePath("/" + path)
		if err != nil {
			return
		}
		q, err := ParseQuery(query)
		if err != nil || slices.ContainsFunc(q, func(p Param) bool {
			return strings.HasPrefix(p.Name, "X-Amz-") || p.Name == "AWSAccessKeyId" || p.Name == "Signature"
		}) {
			return
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		r := &Request{Method: method, Path: decoded, Query: q, Host: "h", Header: http.Header{"X-Amz-Meta-A": {value}}}
		Sign(r, Credentials{"k", "s"}, "r", now)
		claim, err := Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := claim.Verify(r, "s", now); err != nil {
			t.Fatalf("our own signature: %v", err)
		}
		changed := *r
		b := []byte(r.Path)
		b[int(flip)%len(b)] ^= 1
		changed.Path = string(b)
		if _, err := claim.Verify(&changed, "s", now); !errors.Is(err, ErrSignature) {
			t.Errorf("path %q was taken for %q: %v", changed.Path, r.Path, err)
		}
	})
}
