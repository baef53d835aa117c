package s3_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// probe is a request to one route, with a body where the route takes one.
type probe struct {
	op      string
	request request
}

// probes has one request for each route of the table, against bucket "door" with object "k" and the given upload.
func probes(t *testing.T, upload string) []probe {
	t.Helper()
	var list []probe
	for _, r := range s3.RouteTable() {
		target := map[string]string{"service": "/", "bucket": "/door", "object": "/door/k"}[r.Level]
		sep := "?"
		for _, sub := range r.Subs {
			value := map[string]string{"uploadId": "=" + upload, "partNumber": "=1"}[sub]
			target += sep + sub + value
			sep = "&"
		}
		q := request{method: r.Method, target: target, header: map[string]string{}}
		if r.Copies {
			q.header["X-Amz-Copy-Source"] = "/door/k"
		}
		if r.Method == "PUT" || r.Method == "POST" {
			q.body = []byte("forged")
		}
		list = append(list, probe{r.Op, q})
	}
	if len(list) < 50 {
		t.Fatalf("only %d routes: the table is wrong", len(list))
	}
	return list
}

// forgery makes a request carry credentials of one kind that do not prove anything.
type forgery struct {
	name  string
	apply func(k *kit, r *http.Request)
	code  string // besides 403; "" when several are right
}

// spoil changes one digit of a signature.
func spoil(s string) string {
	last := s[len(s)-1]
	if last == '0' {
		return s[:len(s)-1] + "1"
	}
	return s[:len(s)-1] + "0"
}

func badHeader(payload string, extra map[string]string) func(*kit, *http.Request) {
	return func(k *kit, r *http.Request) {
		r.Header.Set("X-Amz-Content-Sha256", payload)
		for name, value := range extra {
			r.Header.Set(name, value)
		}
		k.sign(r, time.Now())
		r.Header.Set("Authorization", spoil(r.Header.Get("Authorization")))
	}
}

func badQuery(payload string) func(*kit, *http.Request) {
	return func(k *kit, r *http.Request) {
		if payload != "" {
			r.Header.Set("X-Amz-Content-Sha256", payload)
			r.Header.Set("X-Amz-Decoded-Content-Length", "6")
		}
		signed, err := sigv4.FromClient(r)
		if err != nil {
			k.t.Fatal(err)
		}
		r.URL.RawQuery = spoil(sigv4.Presign(signed, sigv4.Credentials{AccessKey: accessKey, SecretKey: secretKey}, "us-east-1", time.Now(), time.Hour))
	}
}

func forgeries() []forgery {
	streaming := map[string]string{"X-Amz-Decoded-Content-Length": "6", "Content-Encoding": "aws-chunked"}
	trailer := map[string]string{"X-Amz-Decoded-Content-Length": "6", "Content-Encoding": "aws-chunked", "X-Amz-Trailer": "x-amz-checksum-crc32"}
	sum := sha256.Sum256([]byte("forged"))
	return []forgery{
		{"none", func(*kit, *http.Request) {}, "AccessDenied"},
		{"digest", badHeader(hex.EncodeToString(sum[:]), nil), "SignatureDoesNotMatch"},
		{"unsigned payload", badHeader(sigv4.Unsigned, nil), "SignatureDoesNotMatch"},
		{"streaming signed", badHeader(sigv4.StreamingSigned, streaming), "SignatureDoesNotMatch"},
		{"streaming signed trailer", badHeader(sigv4.StreamingSignedTrailer, trailer), "SignatureDoesNotMatch"},
		{"streaming unsigned trailer", badHeader(sigv4.StreamingUnsignedTrailer, trailer), "SignatureDoesNotMatch"},
		{"snowball", badHeader(sigv4.Unsigned, map[string]string{"X-Amz-Meta-Snowball-Auto-Extract": "true"}), "SignatureDoesNotMatch"},
		{"presigned", badQuery(""), "SignatureDoesNotMatch"},
		{"presigned, unsigned trailer", badQuery(sigv4.StreamingUnsignedTrailer), "SignatureDoesNotMatch"},
		{"unknown key", func(k *kit, r *http.Request) {
			k.sign(r, time.Now())
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), accessKey, "AKNOBODY", 1))
		}, "InvalidAccessKeyId"},
		{"another's key", func(k *kit, r *http.Request) {
			k.sign(r, time.Now())
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), accessKey, otherKey, 1))
		}, "SignatureDoesNotMatch"},
		{"too old", func(k *kit, r *http.Request) { k.sign(r, time.Now().Add(-16*time.Minute)) }, "RequestTimeTooSkewed"},
		{"too early", func(k *kit, r *http.Request) { k.sign(r, time.Now().Add(16*time.Minute)) }, "RequestTimeTooSkewed"},
		{"added header", func(k *kit, r *http.Request) { k.sign(r, time.Now()); r.Header.Set("X-Amz-Meta-Added", "1") }, "AccessDenied"},
		{"added csp header", func(k *kit, r *http.Request) { k.sign(r, time.Now()); r.Header.Set("X-Csp-Meta-Added", "1") }, "AccessDenied"},
		{"added parameter", func(k *kit, r *http.Request) { k.sign(r, time.Now()); r.URL.RawQuery += "&prefix=x" }, "SignatureDoesNotMatch"},
		{"another path", func(k *kit, r *http.Request) { k.sign(r, time.Now()); r.URL.Path += "/." }, "SignatureDoesNotMatch"},
		{"another host", func(k *kit, r *http.Request) { k.sign(r, time.Now()); r.Host = "elsewhere" }, "SignatureDoesNotMatch"},
		{"form post", func(k *kit, r *http.Request) { r.Header.Set("Content-Type", "multipart/form-data; boundary=x") }, "AccessDenied"},
		{"basic", func(k *kit, r *http.Request) {
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			r.SetBasicAuth(accessKey, "")
		}, ""},
	}
}

// snapshot is what can be seen of a store, as text.
func (k *kit) snapshot() string {
	ctx := k.t.Context()
	var b strings.Builder
	buckets, err := k.store.Buckets(ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, bucket := range buckets {
		fmt.Fprintf(&b, "%+v\n", bucket)
		versions, err := k.store.ListVersions(ctx, metadata.ListVersions{Bucket: bucket.ID, Max: 1000})
		if err != nil {
			k.t.Fatal(err)
		}
		uploads, err := k.store.Uploads(ctx, metadata.ListUploads{Bucket: bucket.ID, Max: 1000})
		if err != nil {
			k.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%+v\n%+v\n", versions, uploads)
		for _, u := range uploads.Uploads {
			parts, err := k.store.Parts(ctx, bucket.ID, u.Key, u.ID, 0, 1000)
			if err != nil {
				k.t.Fatal(err)
			}
			fmt.Fprintf(&b, "%+v\n", parts)
		}
	}
	return b.String()
}

// TestNoRouteOpensToAForgedRequest tries each route with each kind of credentials that prove nothing. Every answer is
// a refusal, and nothing changes.
func TestNoRouteOpensToAForgedRequest(t *testing.T) {
	k := newKit(t, false)
	k.bucket("door")
	k.put("/door/k", "kept", nil)
	b, err := k.store.Bucket(t.Context(), "door")
	if err != nil {
		t.Fatal(err)
	}
	upload, err := k.store.CreateUpload(t.Context(), multipart.CreateUpload{Bucket: b.ID, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	k.s3.Reserve("/-/secret/", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a reserved handler was reached") }), false)
	before := k.snapshot()
	all := append(probes(t, upload.ID.String()), probe{"reserved", request{method: "GET", target: "/-/secret/x"}}, probe{"reserved", request{method: "POST", target: "/%2d/secret/x"}},
		probe{"none", request{method: "PATCH", target: "/door/k"}}, probe{"form", request{method: "POST", target: "/door", body: []byte("--x--")}}, probe{"preflight", request{method: "OPTIONS", target: "/door/k"}})
	tried := 0
	for _, p := range all {
		for _, f := range forgeries() {
			r := k.build(p.request)
			f.apply(k, r)
			a := k.send(r)
			tried++
			status := a.status == 403 || f.code == "" && a.status == 400
			if !status || p.request.method != "HEAD" && f.code != "" && !strings.Contains(a.body, "<Code>"+f.code+"</Code>") {
				t.Errorf("%s with %s: status %d, %.200s; want 403 %s", p.op, f.name, a.status, a.body, f.code)
			}
			if a.header.Get("X-Amz-Request-Id") == "" || a.header.Get("Etag") != "" {
				t.Errorf("%s with %s: header %v", p.op, f.name, a.header)
			}
		}
	}
	if after := k.snapshot(); after != before {
		t.Errorf("a forged request changed the store:\n%s\nbefore\n%s", after, before)
	}
	if tried < 1000 {
		t.Errorf("only %d requests were tried", tried)
	}
}

func TestUnprovenFormsAreRefused(t *testing.T) {
	k := newKit(t, false)
	k.bucket("door")
	auth := func(change func(string) string) func(*http.Request) {
		return func(r *http.Request) {
			k.sign(r, time.Now())
			r.Header.Set("Authorization", change(r.Header.Get("Authorization")))
		}
	}
	query := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			signed, err := sigv4.FromClient(r)
			if err != nil {
				t.Fatal(err)
			}
			raw := sigv4.Presign(signed, sigv4.Credentials{AccessKey: accessKey, SecretKey: secretKey}, "us-east-1", time.Now(), time.Hour)
			q, err := sigv4.ParseQuery(raw)
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, p := range q {
				if p.Name == name && value == "" {
					continue
				}
				if p.Name == name {
					p.Value = value
				}
				out = append(out, sigv4.Encode(p.Name)+"="+sigv4.Encode(p.Value))
			}
			r.URL.RawQuery = strings.Join(out, "&")
		}
	}
	for name, c := range map[string]struct {
		apply  func(*http.Request)
		status int
		code   string
	}{
		"sigv2 header": {func(r *http.Request) { r.Header.Set("Authorization", "AWS "+accessKey+":c2ln") }, 400, "InvalidRequest"},
		"sigv2 query": {func(r *http.Request) {
			r.URL.RawQuery = "AWSAccessKeyId=" + accessKey + "&Signature=x&Expires=9999999999"
		}, 400, "InvalidRequest"},
		"sigv4a":           {auth(func(s string) string { return strings.Replace(s, "HMAC-SHA256", "ECDSA-P256-SHA256", 1) }), 501, "NotImplemented"},
		"bearer":           {func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 400, "InvalidArgument"},
		"empty":            {func(r *http.Request) { r.Header.Set("Authorization", "") }, 403, "AccessDenied"},
		"header and query": {func(r *http.Request) { query("", "")(r); k.sign(r, time.Now()) }, 400, "InvalidArgument"},
		"two headers":      {func(r *http.Request) { k.sign(r, time.Now()); r.Header.Add("Authorization", "x") }, 400, "AuthorizationHeaderMalformed"},
		"no date":          {func(r *http.Request) { k.sign(r, time.Now()); r.Header.Del("X-Amz-Date") }, 403, "AccessDenied"},
		"bad date":         {func(r *http.Request) { k.sign(r, time.Now()); r.Header.Set("X-Amz-Date", "today") }, 403, "AccessDenied"},
		"scope of another day": {auth(func(s string) string {
			return strings.Replace(s, time.Now().UTC().Format("/20060102/"), "/20200101/", 1)
		}), 400, "AuthorizationHeaderMalformed"},
		"another service": {auth(func(s string) string { return strings.Replace(s, "/s3/", "/sts/", 1) }), 400, "AuthorizationHeaderMalformed"},
		"no region":       {auth(func(s string) string { return strings.Replace(s, "/us-east-1/", "//", 1) }), 400, "AuthorizationHeaderMalformed"},
		"another region":  {auth(func(s string) string { return strings.Replace(s, "/us-east-1/", "/eu-1/", 1) }), 403, "SignatureDoesNotMatch"},
		"host not signed": {auth(func(s string) string { return strings.Replace(s, "host;", "", 1) }), 403, "AccessDenied"},
		"headers unsorted": {auth(func(s string) string {
			return strings.Replace(s, "host;x-amz-content-sha256", "x-amz-content-sha256;host", 1)
		}), 400, "AuthorizationHeaderMalformed"},
		"upper-case digits": {auth(func(s string) string {
			i := strings.Index(s, "Signature=")
			return s[:i+10] + strings.ToUpper(s[i+10:])
		}), 403, "SignatureDoesNotMatch"},
		"short signature":  {auth(func(s string) string { return s[:len(s)-2] }), 403, "SignatureDoesNotMatch"},
		"no signature":     {auth(func(s string) string { return s[:strings.Index(s, ", Signature")] }), 400, "AuthorizationHeaderMalformed"},
		"long access key":  {auth(func(s string) string { return strings.Replace(s, accessKey, strings.Repeat("A", 129), 1) }), 400, "AuthorizationHeaderMalformed"},
		"no payload mode":  {func(r *http.Request) { k.sign(r, time.Now()); r.Header.Del("X-Amz-Content-Sha256") }, 400, "InvalidRequest"},
		"bad payload mode": {func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "nonsense"); k.sign(r, time.Now()) }, 400, "InvalidArgument"},
		"ecdsa payload": {func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")
			k.sign(r, time.Now())
		}, 501, "NotImplemented"},
		"security token":     {func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x"); k.sign(r, time.Now()) }, 400, "InvalidToken"},
		"expires 0":          {query("X-Amz-Expires", "0"), 400, "AuthorizationQueryParametersError"},
		"expires -1":         {query("X-Amz-Expires", "-1"), 400, "AuthorizationQueryParametersError"},
		"expires too long":   {query("X-Amz-Expires", "604801"), 400, "AuthorizationQueryParametersError"},
		"expires abc":        {query("X-Amz-Expires", "abc"), 400, "AuthorizationQueryParametersError"},
		"expires missing":    {query("X-Amz-Expires", ""), 400, "AuthorizationQueryParametersError"},
		"signature missing":  {query("X-Amz-Signature", ""), 400, "AuthorizationQueryParametersError"},
		"credential missing": {query("X-Amz-Credential", ""), 400, "AuthorizationQueryParametersError"},
		"longer expiry":      {query("X-Amz-Expires", "7200"), 403, "SignatureDoesNotMatch"},
		"expired":            {query("X-Amz-Date", time.Now().Add(-2*time.Hour).UTC().Format("20060102T150405Z")), 403, ""},
		"too many headers": {func(r *http.Request) {
			for i := range 130 {
				r.Header.Set(fmt.Sprintf("H%d", i), "1")
			}
			k.sign(r, time.Now())
		}, 400, "RequestHeaderSectionTooLarge"},
	} {
		t.Run(name, func(t *testing.T) {
			r := k.build(request{method: "GET", target: "/door"})
			c.apply(r)
			if a := k.send(r); a.status != c.status && !(name == "expired" && a.status == 400) || c.code != "" && !strings.Contains(a.body, "<Code>"+c.code+"</Code>") {
				t.Errorf("status %d, %s; want %d %s", a.status, a.body, c.status, c.code)
			}
		})
	}
}

func TestSkewAndExpiryHaveExactEdges(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k := newKit(t, false, func(c *s3.Config) { c.Now = func() time.Time { return now } })
	k.bucket("edge")
	for _, c := range []struct {
		off    time.Duration
		status int
	}{{0, 200}, {15 * time.Minute, 200}, {-15 * time.Minute, 200}, {15*time.Minute + time.Second, 403}, {-15*time.Minute - time.Second, 403}} {
		r := k.build(request{method: "GET", target: "/edge"})
		k.sign(r, now.Add(c.off))
		k.send(r).want(t, c.status, "")
	}
	for _, c := range []struct {
		age    time.Duration
		status int
	}{{0, 200}, {time.Minute, 200}, {time.Minute + time.Second, 403}, {-15 * time.Minute, 200}, {-15*time.Minute - time.Second, 403}} {
		r := k.build(request{method: "GET", target: "/edge"})
		signed, err := sigv4.FromClient(r)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = sigv4.Presign(signed, sigv4.Credentials{AccessKey: accessKey, SecretKey: secretKey}, "x", now.Add(-c.age), time.Minute)
		a := k.send(r).want(t, c.status, "")
		if c.status == 403 && !strings.Contains(a.body, "expired") && !strings.Contains(a.body, "not valid yet") {
			t.Errorf("age %v: %s", c.age, a.body)
		}
	}
}

// TestFalseBodiesLeaveNothing sends bodies that are not what the request promised, for objects and for parts.
func TestFalseBodiesLeaveNothing(t *testing.T) {
	k := newKit(t, false)
	k.bucket("body")
	b, err := k.store.Bucket(t.Context(), "body")
	if err != nil {
		t.Fatal(err)
	}
	upload, err := k.store.CreateUpload(t.Context(), multipart.CreateUpload{Bucket: b.ID, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	crc := func(data string) string {
		sum := crc32.ChecksumIEEE([]byte(data))
		return base64.StdEncoding.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	}
	other := sha256.Sum256([]byte("other"))
	chunked := func(declared, trailer string) map[string]string {
		h := map[string]string{"X-Amz-Content-Sha256": sigv4.StreamingUnsignedTrailer, "Content-Encoding": "aws-chunked"}
		if declared != "" {
			h["X-Amz-Decoded-Content-Length"] = declared
		}
		if trailer != "" {
			h["X-Amz-Trailer"] = trailer
		}
		return h
	}
	for name, c := range map[string]struct {
		header map[string]string
		body   string
		status int
		code   string
	}{
		"sha256":                    {map[string]string{"X-Amz-Content-Sha256": hex.EncodeToString(other[:])}, "this", 400, "XAmzContentSHA256Mismatch"},
		"md5":                       {map[string]string{"Content-Md5": "XrY7u+Ae7tCTyyK7j1rNww=="}, "this", 400, "BadDigest"},
		"md5 malformed":             {map[string]string{"Content-Md5": "XrY7"}, "this", 400, "InvalidDigest"},
		"crc32":                     {map[string]string{"X-Amz-Checksum-Crc32": crc("other")}, "this", 400, "BadDigest"},
		"crc32 malformed":           {map[string]string{"X-Amz-Checksum-Crc32": "xx"}, "this", 400, "InvalidRequest"},
		"two checksums":             {map[string]string{"X-Amz-Checksum-Crc32": crc("this"), "X-Amz-Checksum-Crc32c": crc("this")}, "this", 400, "InvalidRequest"},
		"unknown checksum":          {map[string]string{"X-Amz-Checksum-Adler": "x"}, "this", 400, "InvalidRequest"},
		"trailer value":             {chunked("4", "x-amz-checksum-crc32"), "4\r\nthis\r\n0\r\nx-amz-checksum-crc32:" + crc("other") + "\r\n\r\n", 400, "BadDigest"},
		"trailer missing":           {chunked("4", "x-amz-checksum-crc32"), "4\r\nthis\r\n0\r\n\r\n", 400, "MalformedTrailerError"},
		"trailer undeclared":        {chunked("4", ""), "4\r\nthis\r\n0\r\nx-amz-checksum-crc32:" + crc("this") + "\r\n\r\n", 400, "MalformedTrailerError"},
		"trailer twice":             {chunked("4", "x-amz-checksum-crc32"), "4\r\nthis\r\n0\r\nx-amz-checksum-crc32:" + crc("this") + "\r\nx-amz-checksum-crc32:" + crc("this") + "\r\n\r\n", 400, "MalformedTrailerError"},
		"trailer of another kind":   {chunked("4", "x-amz-meta-a"), "4\r\nthis\r\n0\r\nx-amz-meta-a:b\r\n\r\n", 400, "InvalidRequest"},
		"no decoded length":         {chunked("", ""), "4\r\nthis\r\n0\r\n\r\n", 411, "MissingContentLength"},
		"bad decoded length":        {chunked("-4", ""), "4\r\nthis\r\n0\r\n\r\n", 400, "InvalidArgument"},
		"decoded length + 1":        {chunked("5", ""), "4\r\nthis\r\n0\r\n\r\n", 400, "IncompleteBody"},
		"decoded length - 1":        {chunked("3", ""), "4\r\nthis\r\n0\r\n\r\n", 400, "IncompleteBody"},
		"no last chunk":             {chunked("4", ""), "4\r\nthis\r\n", 400, "IncompleteBody"},
		"huge chunk":                {chunked("4", ""), "FFFFFFFFFFFFFFFF\r\nthis\r\n0\r\n\r\n", 403, "InvalidChunkSizeError"},
		"chunk of 17 digits":        {chunked("4", ""), "00000000000000004\r\nthis\r\n0\r\n\r\n", 400, "InvalidRequest"},
		"negative chunk":            {chunked("4", ""), "-4\r\nthis\r\n0\r\n\r\n", 400, "InvalidRequest"},
		"empty chunk size":          {chunked("4", ""), "\r\nthis\r\n0\r\n\r\n", 400, "InvalidRequest"},
		"endless extension":         {chunked("4", ""), "4;" + strings.Repeat("x", 1<<16) + "\r\nthis\r\n0\r\n\r\n", 400, "InvalidRequest"},
		"long trailer":              {chunked("4", ""), "4\r\nthis\r\n0\r\n" + strings.Repeat("x", 1<<16), 400, "MalformedTrailerError"},
		"bare line feeds":           {chunked("4", ""), "4\nthis\n0\n\n", 400, "InvalidRequest"},
		"chunk longer than said":    {chunked("4", ""), "3\r\nthis\r\n0\r\n\r\n", 400, "InvalidRequest"},
		"signed without signature":  {map[string]string{"X-Amz-Content-Sha256": sigv4.StreamingSigned, "X-Amz-Decoded-Content-Length": "4"}, "4\r\nthis\r\n0\r\n\r\n", 403, "SignatureDoesNotMatch"},
		"signed with another":       {map[string]string{"X-Amz-Content-Sha256": sigv4.StreamingSigned, "X-Amz-Decoded-Content-Length": "4"}, "4;chunk-signature=" + strings.Repeat("0", 64) + "\r\nthis\r\n0;chunk-signature=" + strings.Repeat("0", 64) + "\r\n\r\n", 403, "SignatureDoesNotMatch"},
		"signed trailer undeclared": {map[string]string{"X-Amz-Content-Sha256": sigv4.StreamingSignedTrailer, "X-Amz-Decoded-Content-Length": "4"}, "0", 400, "InvalidRequest"},
		"server-side encryption":    {map[string]string{"X-Amz-Server-Side-Encryption": "AES256"}, "this", 501, "NotImplemented"},
		"customer key":              {map[string]string{"X-Amz-Server-Side-Encryption-Customer-Algorithm": "AES256"}, "this", 501, "NotImplemented"},
		"object lock":               {map[string]string{"X-Amz-Object-Lock-Mode": "COMPLIANCE"}, "this", 501, "NotImplemented"},
		"append":                    {map[string]string{"X-Amz-Write-Offset-Bytes": "4"}, "this", 501, "NotImplemented"},
		"public":                    {map[string]string{"X-Amz-Acl": "public-read"}, "this", 400, "AccessControlListNotSupported"},
		"storage class":             {map[string]string{"X-Amz-Storage-Class": "FAST"}, "this", 400, "InvalidStorageClass"},
		"another owner":             {map[string]string{"X-Amz-Expected-Bucket-Owner": "1234"}, "this", 403, "AccessDenied"},
		"another site":              {map[string]string{"X-Amz-Website-Redirect-Location": "ftp://there"}, "this", 400, "InvalidRedirectLocation"},
		"both conditions":           {map[string]string{"If-Match": "a", "If-None-Match": "*"}, "this", 501, "NotImplemented"},
	} {
		t.Run(name, func(t *testing.T) {
			before := k.snapshot()
			for _, target := range []string{"/body/k", "/body/k?partNumber=1&uploadId=" + upload.ID.String()} {
				part := strings.Contains(target, "?")
				if part && (name == "public" || name == "storage class" || name == "another site" || name == "both conditions") {
					continue
				}
				k.do(request{"PUT", target, c.header, []byte(c.body)}).want(t, c.status, c.code)
			}
			if after := k.snapshot(); after != before {
				t.Errorf("something is visible:\n%s", after)
			}
		})
	}
	// The same framing with nothing wrong in it goes in.
	good := "4\r\nthis\r\n0\r\nx-amz-checksum-crc32:" + crc("this") + "\r\n\r\n"
	a := k.do(request{"PUT", "/body/good", chunked("4", "x-amz-checksum-crc32"), []byte(good)}).want(t, 200, "")
	if a.header.Get("X-Amz-Checksum-Crc32") != crc("this") || a.header.Get("Etag") != etagOf([]byte("this")) {
		t.Errorf("header %v", a.header)
	}
	if got := k.do(request{method: "GET", target: "/body/good"}); got.body != "this" || got.header.Get("Content-Encoding") != "" {
		t.Errorf("stored %q with %v", got.body, got.header)
	}
	if bytes.Contains([]byte(k.snapshot()), []byte("aws-chunked")) {
		t.Error("aws-chunked was stored")
	}
}
