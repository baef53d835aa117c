package s3_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3"
)

func TestRangesAreServed(t *testing.T) {
	k := newKit(t, false)
	k.bucket("range")
	k.put("/range/k", "0123456789", nil)
	k.put("/range/empty", "", nil)
	for _, c := range []struct {
		target, header string
		status         int
		body, content  string
	}{
		{"k", "bytes=0-3", 206, "0123", "bytes 0-3/10"}, {"k", "bytes=0-0", 206, "0", "bytes 0-0/10"}, {"k", "bytes=9-9", 206, "9", "bytes 9-9/10"},
		{"k", "bytes=5-", 206, "56789", "bytes 5-9/10"}, {"k", "bytes=-4", 206, "6789", "bytes 6-9/10"}, {"k", "bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"k", "bytes=8-99", 206, "89", "bytes 8-9/10"}, {"k", "bytes=8-99999999999999999999999", 206, "89", "bytes 8-9/10"},
		{"k", "bytes=10-", 416, "", "bytes */10"}, {"k", "bytes=99999999999999999999-", 416, "", "bytes */10"}, {"k", "bytes=-0", 416, "", "bytes */10"},
		{"k", "bytes=4-2", 200, "0123456789", ""}, {"k", "bytes=1-2,4-5", 200, "0123456789", ""}, {"k", "lines=1-2", 200, "0123456789", ""}, {"k", "bytes=x-y", 200, "0123456789", ""},
		{"empty", "bytes=0-", 416, "", "bytes */0"}, {"empty", "bytes=-1", 416, "", "bytes */0"}, {"empty", "bytes=0-0", 416, "", "bytes */0"},
	} {
		a := k.do(request{method: "GET", target: "/range/" + c.target, header: map[string]string{"Range": c.header}})
		if a.status != c.status || c.status != 416 && a.body != c.body || a.header.Get("Content-Range") != c.content || c.status == 416 && !strings.Contains(a.body, "<Code>InvalidRange</Code>") {
			t.Errorf("%s %s: %d %q %q; want %d %q %q", c.target, c.header, a.status, a.body, a.header.Get("Content-Range"), c.status, c.body, c.content)
		}
		h := k.do(request{method: "HEAD", target: "/range/" + c.target, header: map[string]string{"Range": c.header}})
		if h.status != c.status || h.body != "" || c.status != 416 && h.header.Get("Content-Length") != fmt.Sprint(len(c.body)) {
			t.Errorf("HEAD %s %s: %d, length %s", c.target, c.header, h.status, h.header.Get("Content-Length"))
		}
	}
	a := k.do(request{method: "GET", target: "/range/k?partNumber=1", header: map[string]string{"X-Amz-Checksum-Mode": "ENABLED"}}).want(t, 206, "")
	if a.body != "0123456789" || a.header.Get("X-Amz-Mp-Parts-Count") != "" {
		t.Errorf("part 1 of a plain object: %q, %v", a.body, a.header)
	}
	k.do(request{method: "GET", target: "/range/k?partNumber=2"}).want(t, 416, "InvalidPartNumber")
	for _, n := range []string{"0", "10001", "-1", "x", ""} {
		k.do(request{method: "GET", target: "/range/k?partNumber=" + n}).want(t, 400, "InvalidArgument")
	}
	k.do(request{method: "GET", target: "/range/k?partNumber=1", header: map[string]string{"Range": "bytes=0-1"}}).want(t, 400, "InvalidRequest")
	k.do(request{method: "GET", target: "/range/k", header: map[string]string{"Range": "bytes=0-1", "If-Range": "other"}}).want(t, 200, "")
	k.do(request{method: "GET", target: "/range/k", header: map[string]string{"Range": "bytes=0-1", "If-Range": etagOf([]byte("0123456789"))}}).want(t, 206, "")
}

func TestConditionsOfReadsHaveTheirPrecedence(t *testing.T) {
	k := newKit(t, false)
	k.bucket("cond")
	k.put("/cond/k", "body", nil)
	etag, before, after := etagOf([]byte("body")), time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		header map[string]string
		status int
	}{
		{map[string]string{"If-Match": etag}, 200}, {map[string]string{"If-Match": "*"}, 200}, {map[string]string{"If-Match": `"x", ` + etag}, 200}, {map[string]string{"If-Match": "x"}, 412},
		{map[string]string{"If-None-Match": etag}, 304}, {map[string]string{"If-None-Match": "W/" + etag}, 304}, {map[string]string{"If-None-Match": "*"}, 304}, {map[string]string{"If-None-Match": "x"}, 200},
		{map[string]string{"If-Modified-Since": before}, 200}, {map[string]string{"If-Modified-Since": after}, 304}, {map[string]string{"If-Modified-Since": "never"}, 200},
		{map[string]string{"If-Unmodified-Since": before}, 412}, {map[string]string{"If-Unmodified-Since": after}, 200},
		{map[string]string{"If-Match": etag, "If-Unmodified-Since": before}, 200}, {map[string]string{"If-None-Match": "x", "If-Modified-Since": after}, 200},
		{map[string]string{"If-None-Match": etag, "If-Modified-Since": before}, 304}, {map[string]string{"If-Match": "x", "If-None-Match": etag}, 412},
	} {
		a := k.do(request{method: "GET", target: "/cond/k", header: c.header}).want(t, c.status, "")
		if c.status == 304 && (a.body != "" || a.header.Get("Etag") != etag) {
			t.Errorf("304 for %v: %q, %v", c.header, a.body, a.header)
		}
		k.do(request{method: "HEAD", target: "/cond/k", header: c.header}).want(t, c.status, "")
	}
}

func TestMetadataComesBackUnderItsName(t *testing.T) {
	k := newKit(t, false)
	k.bucket("meta")
	header := map[string]string{
		"X-Amz-Meta-Mixed-Case": "Value", "X-Csp-Meta-Team": "a,b", "X-Amz-Meta-Word": "=?UTF-8?B?w6TDtg==?=", "X-Amz-Meta-Raw": "grüße", "X-Amz-Meta-Ascii": "a=?b",
		"Cache-Control": "max-age=1", "Content-Disposition": "inline", "Content-Language": "de", "Expires": "soon", "Content-Encoding": "gzip, aws-chunked", "Content-Type": "a/b",
		"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Website-Redirect-Location": "/x", "X-Amz-Tagging": "a=1",
	}
	k.put("/meta/k", "x", header)
	a := k.do(request{method: "HEAD", target: "/meta/k"}).want(t, 200, "")
	for name, want := range map[string]string{
		"X-Amz-Meta-Mixed-Case": "Value", "X-Csp-Meta-Team": "a,b", "X-Amz-Meta-Word": "=?UTF-8?b?w6TDtg==?=", "X-Amz-Meta-Raw": "=?UTF-8?b?Z3LDvMOfZQ==?=", "X-Amz-Meta-Ascii": "a=?b",
		"Cache-Control": "max-age=1", "Content-Disposition": "inline", "Content-Language": "de", "Expires": "soon", "Content-Encoding": "gzip", "Content-Type": "a/b",
		"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Website-Redirect-Location": "/x", "X-Amz-Tagging-Count": "1", "X-Amz-Meta-Team": "", "X-Content-Type-Options": "nosniff",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, prefix := range []string{"X-Amz-Meta-", "X-Csp-Meta-"} {
		k.put("/meta/limit", "x", map[string]string{prefix + "A": strings.Repeat("v", 2047)})
		k.do(request{"PUT", "/meta/limit", map[string]string{prefix + "A": strings.Repeat("v", 2048)}, nil}).want(t, 400, "MetadataTooLarge")
	}
	a = k.do(request{"PUT", "/meta/xml", map[string]string{"Accept": "application/xml"}, []byte("x")}).want(t, 200, "")
	if !strings.Contains(a.body, "<PutObjectResult") || !strings.Contains(a.body, "<ETag>&#34;9dd4e461268c8034f5c8564e155c67a6&#34;</ETag>") {
		t.Errorf("body %s", a.body)
	}
	if err := k.store.SetVersioning(t.Context(), "meta", metadata.VersioningEnabled); err != nil {
		t.Fatal(err)
	}
	a = k.do(request{"PUT", "/meta/xml", map[string]string{"Accept": "application/xml"}, []byte("x")}).want(t, 200, "")
	if id := a.header.Get("X-Amz-Version-Id"); id == "" || !strings.Contains(a.body, "<VersionId>"+id+"</VersionId>") {
		t.Errorf("body %s with version %q", a.body, id)
	}
}

func TestTagsHaveTheirLimits(t *testing.T) {
	k := newKit(t, false)
	k.bucket("tags")
	k.put("/tags/k", "x", nil)
	set := func(n int, key, value string) string {
		var b strings.Builder
		b.WriteString("<Tagging><TagSet>")
		for i := range n {
			fmt.Fprintf(&b, "<Tag><Key>%s%d</Key><Value>%s</Value></Tag>", key, i, value)
		}
		return b.String() + "</TagSet></Tagging>"
	}
	put := func(body string) answer { return k.do(request{"PUT", "/tags/k?tagging", nil, []byte(body)}) }
	put(set(10, "k", "v")).want(t, 200, "")
	if a := k.do(request{method: "GET", target: "/tags/k?tagging"}).want(t, 200, ""); strings.Count(a.body, "<Tag>") != 10 {
		t.Errorf("tags %s", a.body)
	}
	put(set(11, "k", "v")).want(t, 400, "InvalidTag")
	put(set(1, strings.Repeat("ä", 127), "v")).want(t, 200, "")
	put(set(1, strings.Repeat("ä", 128), "v")).want(t, 400, "InvalidTag")
	put(set(1, "k", strings.Repeat("ä", 256))).want(t, 200, "")
	put(set(1, "k", strings.Repeat("ä", 257))).want(t, 400, "InvalidTag")
	put(set(1, "aws:k", "v")).want(t, 400, "InvalidTag")
	put("<Tagging><TagSet><Tag><Key>a</Key></Tag><Tag><Key>a</Key></Tag></TagSet></Tagging>").want(t, 400, "InvalidTag")
	put("<Tagging>").want(t, 400, "MalformedXML")
	put("<Tagging></Tagging>").want(t, 400, "MalformedXML")
	if a := k.do(request{method: "GET", target: "/tags/k?tagging"}).want(t, 200, ""); strings.Count(a.body, "<Tag>") != 1 {
		t.Errorf("tags after refused ones: %s", a.body)
	}
	k.do(request{method: "DELETE", target: "/tags/k?tagging"}).want(t, 204, "")
	if a := k.do(request{method: "GET", target: "/tags/k?tagging"}).want(t, 200, ""); strings.Contains(a.body, "<Tag>") {
		t.Errorf("tags after delete %s", a.body)
	}
	k.do(request{method: "GET", target: "/tags/none?tagging"}).want(t, 404, "NoSuchKey")
	k.do(request{"PUT", "/tags/k", map[string]string{"X-Amz-Tagging": "a=1&a=2"}, nil}).want(t, 400, "InvalidTag")
}

func TestNamesAreCheckedBeforeAnythingHappens(t *testing.T) {
	k := newKit(t, false)
	for _, name := range []string{"ab", strings.Repeat("a", 64), "Upper", "under_score", "-a-", "abc-", ".abc", "abc.", "a..b", "a.-b", "a-.b", "192.168.5.4", "xn--abc", "abc-s3alias", "a%2F", "%2e%2e", "a%00b", "ab%20"} {
		k.do(request{method: "PUT", target: "/" + name}).want(t, 400, "InvalidBucketName")
	}
	for _, name := range []string{"abc", strings.Repeat("a", 63), "a.b-c", "0ab", "192.168.5.400"} {
		k.do(request{method: "PUT", target: "/" + name}).want(t, 200, "")
	}
	k.do(request{method: "PUT", target: "/abc"}).want(t, 409, "BucketAlreadyOwnedByYou")
	k.do(request{"PUT", "/enforced", map[string]string{"X-Amz-Object-Ownership": "BucketOwnerEnforced"}, nil}).want(t, 200, "")
	k.do(request{"PUT", "/writers", map[string]string{"X-Amz-Object-Ownership": "ObjectWriter"}, nil}).want(t, 501, "NotImplemented")
	k.do(request{"PUT", "/tagged", nil, []byte("<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>")}).want(t, 501, "NotImplemented")
	k.do(request{"PUT", "/untagged", nil, []byte("<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint><Tags></Tags></CreateBucketConfiguration>")}).want(t, 200, "")
	if _, err := k.store.CreateBucket(t.Context(), "theirs", otherKey); err != nil {
		t.Fatal(err)
	}
	k.do(request{method: "PUT", target: "/theirs"}).want(t, 409, "BucketAlreadyExists")
	k.put("/abc/"+strings.Repeat("k", 1024), "x", nil)
	k.do(request{method: "PUT", target: "/abc/" + strings.Repeat("k", 1025)}).want(t, 400, "KeyTooLongError")
	k.put("/abc/"+strings.Repeat("%C3%A4", 512), "x", nil)
	k.do(request{method: "PUT", target: "/abc/" + strings.Repeat("%C3%A4", 512) + "x"}).want(t, 400, "KeyTooLongError")
	k.do(request{method: "PUT", target: "/abc/%FF%FE"}).want(t, 400, "InvalidURI")
	k.do(request{method: "GET", target: "/none/k"}).want(t, 404, "NoSuchBucket")
	k.do(request{method: "GET", target: "/abc/none"}).want(t, 404, "NoSuchKey")
	k.do(request{method: "DELETE", target: "/abc/none"}).want(t, 204, "")
	k.do(request{method: "DELETE", target: "/abc"}).want(t, 409, "BucketNotEmpty")
	k.do(request{method: "POST", target: "/0ab/k?uploads"}).want(t, 200, "")
	k.do(request{method: "DELETE", target: "/0ab"}).want(t, 204, "")
	k.do(request{method: "HEAD", target: "/0ab"}).want(t, 404, "")
	k.do(request{method: "GET", target: "/abc/none?versionId=x"}).want(t, 400, "InvalidArgument")
	k.do(request{method: "GET", target: "/abc/none?versionId=" + metadata.VersionID{Clock: 1}.String()}).want(t, 404, "NoSuchVersion")
	k.do(request{method: "GET", target: "/-/nothing"}).want(t, 404, "NoSuchKey")
}

func TestSubResourcesAnswerAsUnconfigured(t *testing.T) {
	k := newKit(t, false)
	k.bucket("stub")
	k.put("/stub/k", "x", nil)
	for sub, code := range map[string]string{
		"policy": "NoSuchBucketPolicy", "policyStatus": "NoSuchBucketPolicy", "cors": "NoSuchCORSConfiguration", "website": "NoSuchWebsiteConfiguration",
		"lifecycle": "NoSuchLifecycleConfiguration", "tagging": "NoSuchTagSet", "replication": "ReplicationConfigurationNotFoundError",
		"encryption": "ServerSideEncryptionConfigurationNotFoundError", "object-lock": "ObjectLockConfigurationNotFoundError",
		"ownershipControls": "OwnershipControlsNotFoundError", "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
	} {
		k.do(request{method: "GET", target: "/stub?" + sub}).want(t, 404, code)
		k.do(request{method: "GET", target: "/none?" + sub}).want(t, 404, "NoSuchBucket")
		k.do(request{"PUT", "/stub?" + sub, nil, []byte("<X/>")}).want(t, 501, "NotImplemented")
	}
	for sub, root := range map[string]string{
		"versioning": "VersioningConfiguration", "logging": "BucketLoggingStatus", "notification": "NotificationConfiguration", "accelerate": "AccelerateConfiguration",
		"requestPayment": "RequestPaymentConfiguration", "analytics": "ListBucketAnalyticsConfigurationResult", "inventory": "ListInventoryConfigurationsResult",
		"metrics": "ListMetricsConfigurationsResult", "intelligent-tiering": "ListBucketIntelligentTieringConfigurationsOutput", "acl": "AccessControlPolicy", "location": "LocationConstraint",
	} {
		if a := k.do(request{method: "GET", target: "/stub?" + sub}).want(t, 200, ""); !strings.Contains(a.body, "<"+root) {
			t.Errorf("%s: %s", sub, a.body)
		}
	}
	before := k.snapshot()
	for _, q := range []request{
		{method: "GET", target: "/stub?torrent"}, {method: "GET", target: "/stub/k?torrent"}, {method: "PUT", target: "/stub/k?acl", body: []byte("<X/>")}, {method: "PUT", target: "/stub/k?retention"},
		{method: "POST", target: "/stub/k?restore"}, {method: "POST", target: "/stub/k?select&select-type=2"}, {method: "PUT", target: "/stub/k?legal-hold"}, {method: "PUT", target: "/stub?acl&policy"},
		{method: "GET", target: "/stub?uploads&acl"}, {method: "GET", target: "/stub?metadataTable"}, {method: "PUT", target: "/stub/k?uploadId=x"}, {method: "PUT", target: "/stub/k?tagging&acl"},
		{method: "POST", target: "/stub/k"}, {method: "POST", target: "/"}, {method: "PATCH", target: "/stub/k"}, {method: "DELETE", target: "/"}, {method: "PUT", target: "/stub/k?renameObject"},
		{method: "DELETE", target: "/stub/k?uploads"}, {method: "GET", target: "/stub?session"}, {"PUT", "/stub/k", map[string]string{"X-Amz-Copy-Source": ""}, nil},
	} {
		if a := k.do(q); a.status != 501 && a.status != 405 && a.status != 400 {
			t.Errorf("%s %s: %d %s", q.method, q.target, a.status, a.body)
		}
	}
	if k.snapshot() != before {
		t.Error("a sub-resource changed the store")
	}
	k.do(request{"PUT", "/stub?acl", map[string]string{"X-Amz-Acl": "private"}, nil}).want(t, 200, "")
	acl := k.do(request{method: "GET", target: "/stub/k?acl"}).want(t, 200, "").body
	k.do(request{"PUT", "/stub/k?acl", nil, []byte(acl)}).want(t, 200, "") // what is so may be said again
	k.do(request{"PUT", "/stub/k?acl", nil, []byte(strings.Replace(acl, "FULL_CONTROL", "READ", 1))}).want(t, 400, "AccessControlListNotSupported")
	everyone := `<Grant><Grantee><URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>FULL_CONTROL</Permission></Grant></AccessControlList>`
	k.do(request{"PUT", "/stub/k?acl", nil, []byte(strings.Replace(acl, "</AccessControlList>", everyone, 1))}).want(t, 400, "AccessControlListNotSupported")
	k.do(request{"PUT", "/stub?acl", nil, nil}).want(t, 400, "AccessControlListNotSupported")
	k.do(request{method: "GET", target: "/stub/k?retention"}).want(t, 404, "NoSuchObjectLockConfiguration")
	k.do(request{method: "GET", target: "/stub?allow-unordered=true&metadata=true&unknown"}).want(t, 200, "") // others' parameters mean nothing
	head := k.do(request{method: "HEAD", target: "/stub"}).want(t, 200, "")
	if head.header.Get("X-Amz-Bucket-Region") != "us-east-1" {
		t.Errorf("HeadBucket: %v", head.header)
	}
}

func TestXMLIsBoundedAndStrict(t *testing.T) {
	k := newKit(t, false)
	k.bucket("xml")
	var keys strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&keys, "<Object><Key>%d</Key></Object>", i)
	}
	deep := strings.Repeat("<a>", 100_000) + strings.Repeat("</a>", 100_000)
	for name, body := range map[string]string{
		"empty": "", "not XML": "hello", "open": "<Delete>", "another root": "<Remove><Object><Key>k</Key></Object></Remove>", "no objects": "<Delete></Delete>",
		"junk behind": "<Delete><Object><Key>k</Key></Object></Delete>junk", "two documents": "<Delete><Object><Key>k</Key></Object></Delete><Delete/>",
		"DTD": `<!DOCTYPE d [<!ENTITY a "aaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>`, "deep": "<Delete>" + deep + "</Delete>",
		"1001": "<Delete>" + keys.String() + "</Delete>", "not UTF-8": "<Delete><Object><Key>\xff</Key></Object></Delete>", "UTF-16": `<?xml version="1.0" encoding="UTF-16"?><Delete/>`,
		"over 8 MiB": "<Delete>" + strings.Repeat(" ", 8<<20) + "</Delete>", "no key": "<Delete><Object><Key>k</Key></Object><Object></Object></Delete>",
	} {
		t.Run(name, func(t *testing.T) {
			k.do(request{"POST", "/xml?delete", map[string]string{"X-Amz-Content-Sha256": sha(body)}, []byte(body)}).want(t, 400, "MalformedXML")
		})
	}
	body := "<Delete><Object><Key>k</Key></Object><Object><Key>" + strings.Repeat("k", 1025) + "</Key></Object><Object><Key>a</Key><VersionId>bad</VersionId></Object></Delete>"
	k.do(request{"POST", "/xml?delete", nil, []byte(body)}).want(t, 400, "InvalidRequest") // unsigned and without a checksum
	a := k.do(request{"POST", "/xml?delete", map[string]string{"X-Amz-Content-Sha256": sha(body)}, []byte(body)}).want(t, 200, "KeyTooLongError")
	if !strings.Contains(a.body, "<Deleted><Key>k</Key></Deleted>") || !strings.Contains(a.body, "<Code>NoSuchVersion</Code>") {
		t.Errorf("answer %s", a.body)
	}
	k.put("/xml/guarded", "x", nil)
	for _, condition := range []string{"<Size>9</Size>", "<LastModifiedTime>Sat, 29 Oct 1994 19:43:31 GMT</LastModifiedTime>", "<ETag>other</ETag>"} {
		body := "<Delete><Object><Key>guarded</Key>" + condition + "</Object></Delete>"
		if a := k.do(request{"POST", "/xml?delete", map[string]string{"X-Amz-Content-Sha256": sha(body)}, []byte(body)}).want(t, 200, ""); !strings.Contains(a.body, "<Error><Key>guarded</Key>") {
			t.Errorf("condition %s: %s", condition, a.body)
		}
	}
	k.do(request{method: "GET", target: "/xml/guarded"}).want(t, 200, "")
	k.do(request{"PUT", "/xml?versioning", nil, []byte("<VersioningConfiguration><Status>On</Status></VersioningConfiguration>")}).want(t, 400, "IllegalVersioningConfigurationException")
	k.do(request{"PUT", "/another", nil, []byte("<Nonsense/>")}).want(t, 400, "MalformedXML")
}

func TestListingsCanAlwaysBeFinished(t *testing.T) {
	k := newKit(t, false)
	k.bucket("list")
	for _, key := range []string{"a", "b%01", "b%02", "c", "c%00x", "d/%01", "e"} {
		k.put("/list/"+key, "x", nil)
	}
	get := func(query string) answer { return k.do(request{method: "GET", target: "/list?" + query}) }
	// Plain pages are well-formed and end where a marker can be written.
	a := get("max-keys=2").want(t, 200, "")
	if strings.Count(a.body, "<Contents>") != 1 || !strings.Contains(a.body, "<NextMarker>a</NextMarker>") {
		t.Errorf("page that would end in a control character: %s", a.body)
	}
	get("max-keys=2&marker=a").want(t, 400, "InvalidRequest")
	a = get("max-keys=3&marker=a").want(t, 200, "")
	if strings.Count(a.body, "\uFFFD") != 2 || !strings.Contains(a.body, "<NextMarker>c</NextMarker>") {
		t.Errorf("page with control characters inside: %s", a.body)
	}
	a = get("marker=c").want(t, 200, "")
	if strings.Contains(a.body, "NextMarker") || strings.Count(a.body, "<Contents>") != 3 {
		t.Errorf("last page: %s", a.body)
	}
	var keys []string
	for marker := ""; ; {
		a := get("max-keys=1&encoding-type=url&marker="+marker).want(t, 200, "")
		keys = append(keys, between(a.body, "<Key>", "</Key>"))
		if marker = between(a.body, "<NextMarker>", "</NextMarker>"); marker == "" {
			break
		}
	}
	if !slices.Equal(keys, []string{"a", "b%01", "b%02", "c", "c%00x", "d/%01", "e"}) {
		t.Errorf("keys %q", keys)
	}
	for _, max := range []string{"0", "1", "2", "1000", "1001"} {
		a := get("list-type=2&max-keys="+max).want(t, 200, "")
		want := map[string]string{"0": "<KeyCount>0<", "1": "<KeyCount>1<", "2": "<KeyCount>2<", "1000": "<KeyCount>7<", "1001": "<MaxKeys>1000<"}[max]
		if !strings.Contains(a.body, want) || max == "0" && strings.Contains(a.body, "<IsTruncated>true") {
			t.Errorf("max-keys=%s: %s", max, a.body)
		}
	}
	for _, query := range []string{"max-keys=-1", "max-keys=x", "list-type=3", "encoding-type=base64", "list-type=2&continuation-token=x", "list-type=2&continuation-token=", "uploads&max-uploads=x", "versions&max-keys=x", "versions&key-marker=a&version-id-marker=x", "versions&version-id-marker=null", "uploads&key-marker=a&upload-id-marker=x"} {
		get(query).want(t, 400, "InvalidArgument")
	}
	token := between(get("list-type=2&max-keys=1").body, "<NextContinuationToken>", "</NextContinuationToken>")
	get("list-type=2&continuation-token="+token).want(t, 200, "")
	get("list-type=2&prefix=b&continuation-token="+token).want(t, 400, "InvalidArgument")
	get("list-type=2&delimiter=/&continuation-token="+token).want(t, 400, "InvalidArgument")
	for i := range token {
		changed := []byte(token)
		changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
		get("list-type=2&continuation-token="+string(changed)).want(t, 400, "InvalidArgument")
	}
	k.bucket("other")
	k.do(request{method: "GET", target: "/other?list-type=2&continuation-token=" + token}).want(t, 400, "InvalidArgument")
	a = get("list-type=2&delimiter=/&prefix=d/&start-after=a&fetch-owner=true&encoding-type=url").want(t, 200, "")
	for _, want := range []string{"<Prefix>d/</Prefix>", "<Delimiter>/</Delimiter>", "<StartAfter>a</StartAfter>", "<EncodingType>url</EncodingType>", "<Key>d/%01</Key>", "<Owner>"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %s in %s", want, a.body)
		}
	}
}

func between(s, start, end string) string {
	_, rest, found := strings.Cut(s, start)
	if !found {
		return ""
	}
	inner, _, _ := strings.Cut(rest, end)
	return inner
}

// failing gives objects whose bytes fail at an offset.
type failing struct {
	s3.Store
	at  int64
	err error
}

func (f failing) Open(ctx context.Context, b metadata.BucketID, key string, at multipart.At) (multipart.Object, error) {
	o, err := f.Store.Open(ctx, b, key, at)
	return failingObject{o, f}, err
}

type failingObject struct {
	multipart.Object
	failing
}

func (o failingObject) Read(ctx context.Context, span multipart.Span) io.ReadCloser {
	inner := o.Object.Read(ctx, span)
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(inner, o.at-span.Off), errorReader{o.err}), inner}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestMarkersInsideACommonPrefixSkipIt(t *testing.T) {
	k := newKit(t, false)
	k.bucket("skip")
	for _, key := range []string{"p/a/1", "p/a/2", "p/b/1", "p/c"} {
		k.put("/skip/"+key, "x", nil)
		k.do(request{method: "POST", target: "/skip/" + key + "?uploads"}).want(t, 200, "")
	}
	id := between(k.do(request{method: "GET", target: "/skip?uploads&prefix=p/a/1"}).body, "<UploadId>", "</UploadId>")
	for marker, want := range map[string]string{"": "p/ p/a/ p/b/", "p/a": "p/ p/a/ p/b/", "p/a/": "p/ p/b/", "p/a/0": "p/ p/b/", "p/a/1": "p/ p/b/", "p/b/1": "p/", "p/z": "p/"} {
		for _, query := range []string{"marker=" + marker, "list-type=2&start-after=" + marker, "versions&key-marker=" + marker, "uploads&key-marker=" + marker, "versions&version-id-marker=null&key-marker=" + marker, "uploads&upload-id-marker=" + id + "&key-marker=" + marker} {
			if marker == "" && strings.Contains(query, "version-id-marker") {
				continue
			}
			a := k.do(request{method: "GET", target: "/skip?delimiter=/&prefix=p/&" + query}).want(t, 200, "")
			var got []string // the prefix of the request, and the common ones
			for _, piece := range strings.Split(a.body, "<Prefix>")[1:] {
				got = append(got, piece[:strings.Index(piece, "<")])
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("%s: prefixes %q, want %q", query, got, want)
			}
			if !strings.Contains(query, "start-after") && !strings.Contains(a.body, "arker>"+marker+"</") {
				t.Errorf("%s: the marker is not echoed: %s", query, a.body)
			}
		}
	}
}

func TestLostBytesAreNeverAShortAnswer(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{{chunkstore.ErrLost, 500, "InternalError"}, {chunkstore.ErrDamaged, 500, "InternalError"}, {chunkstore.ErrSlowDown, 503, "SlowDown"}, {metadata.ErrUnavailable, 503, "SlowDown"}, {io.EOF, 500, "InternalError"}, {io.ErrUnexpectedEOF, 500, "InternalError"}} {
		for _, at := range []int64{0, 1000, 128<<10 - 1, 128 << 10, 300_000} {
			k := newKit(t, false, func(config *s3.Config) {
				config.Store, config.Log = failing{config.Store, at, fmt.Errorf("read chunk: %w", c.err)}, nil
			})
			k.bucket("lost")
			k.put("/lost/k", string(pattern(400_000)), nil)
			r := k.build(request{method: "GET", target: "/lost/k"})
			k.sign(r, time.Now())
			res, err := k.http.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			switch {
			case at < 128<<10: // known before the header went out
				if res.StatusCode != c.status || !strings.Contains(string(body), c.code) || res.Header.Get("Etag") != "" {
					t.Errorf("%v at %d: %d %.200s", c.err, at, res.StatusCode, body)
				}
				if c.status == 503 && res.Header.Get("Retry-After") == "" {
					t.Errorf("%v: no Retry-After", c.err)
				}
			case err == nil:
				t.Errorf("%v at %d: %d bytes and no error", c.err, at, len(body))
			}
		}
	}
}

// slow makes Complete wait for a signal.
type slow struct {
	s3.Store
	release chan error
}

func (s slow) Complete(ctx context.Context, c metadata.Complete) (metadata.Version, error) {
	if err := <-s.release; err != nil {
		return metadata.Version{}, err
	}
	return s.Store.Complete(ctx, c)
}

func TestLongCompleteKeepsTheConnectionAlive(t *testing.T) {
	for _, fail := range []error{nil, metadata.ErrInvalidPart} {
		release := make(chan error)
		k := newKit(t, false, func(c *s3.Config) { c.Store, c.KeepAlive = slow{c.Store, release}, time.Millisecond })
		k.bucket("slow")
		created := k.do(request{method: "POST", target: "/slow/k?uploads"}).want(t, 200, "")
		id := between(created.body, "<UploadId>", "</UploadId>")
		part := k.do(request{"PUT", "/slow/k?partNumber=1&uploadId=" + id, nil, []byte("x")}).want(t, 200, "")
		r := k.build(request{"POST", "/slow/k?uploadId=" + id, nil, []byte("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>" + part.header.Get("Etag") + "</ETag></Part></CompleteMultipartUpload>")})
		k.sign(r, time.Now())
		res, err := k.http.Client().Do(r) // returns with the header, while the work still waits
		if err != nil {
			t.Fatal(err)
		}
		release <- fail
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || !strings.HasPrefix(string(body), "<?xml") || !strings.Contains(string(body), "\n ") {
			t.Errorf("status %d, %v, %s", res.StatusCode, err, body)
		}
		if want := map[bool]string{true: "<CompleteMultipartUploadResult", false: "<Code>InvalidPart</Code>"}[fail == nil]; !strings.Contains(string(body), want) {
			t.Errorf("body %s", body)
		}
	}
}

func TestVirtualHostsNameTheBucket(t *testing.T) {
	k := newKit(t, false, func(c *s3.Config) { c.Domain = "s3.example.org, other.test" })
	k.bucket("vhost")
	k.put("/vhost/-/k", "x", nil)
	for _, c := range []struct {
		host, target string
		status       int
	}{{"vhost.s3.example.org", "/-/k", 200}, {"VHOST.s3.example.org:9000", "/-/k", 200}, {"vhost.other.test", "/-/k", 200}, {"vhost.other.test", "/?list-type=2", 200},
		{"s3.example.org", "/vhost/-/k", 200}, {"elsewhere", "/vhost/-/k", 200}, {"none.other.test", "/-/k", 404}, {"192.0.2.1", "/vhost/-/k", 200}} {
		r := k.build(request{method: "GET", target: c.target})
		r.Host = c.host
		k.sign(r, time.Now())
		k.send(r).want(t, c.status, "")
	}
}

func TestReservedPathsStandBehindTheDoor(t *testing.T) {
	k := newKit(t, false)
	k.s3.Reserve("/-/health/live", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "alive") }), true)
	k.s3.Reserve("/-/who/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := s3.PrincipalFrom(r.Context())
		body, err := io.ReadAll(r.Body)
		fmt.Fprint(w, who.Name, ok, string(body), err, r.URL.Path)
	}), false)
	if a := k.send(k.build(request{method: "GET", target: "/-/health/live"})).want(t, 200, ""); a.body != "alive" {
		t.Errorf("live: %s", a.body)
	}
	k.send(k.build(request{method: "GET", target: "/-/health/live/x"})).want(t, 403, "AccessDenied")
	k.send(k.build(request{method: "GET", target: "/-/health"})).want(t, 403, "AccessDenied")
	k.send(k.build(request{method: "GET", target: "/-/who/me"})).want(t, 403, "AccessDenied")
	if a := k.do(request{"POST", "/-/who/me", nil, []byte("body")}).want(t, 200, ""); a.body != "roottruebody<nil>/-/who/me" {
		t.Errorf("who: %s", a.body)
	}
	// A body that lies is an error for the handler, not a body.
	if a := k.do(request{"POST", "/-/who/me", map[string]string{"X-Amz-Content-Sha256": sha("other")}, []byte("body")}); !strings.Contains(a.body, "XAmzContentSHA256Mismatch") {
		t.Errorf("false body: %s", a.body)
	}
	if all := k.s3.Reserved(); !slices.Equal(all, []string{"/-/health/live", "/-/who/"}) {
		t.Errorf("reserved are %q", all)
	}
	for _, bad := range []func(){func() { k.s3.Reserve("/x", http.NotFoundHandler(), true) }, func() { k.s3.Reserve("/-/who/", http.NotFoundHandler(), true) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a bad reservation was taken")
				}
			}()
			bad()
		}()
	}
}

// talk sends raw bytes and gives the first answer, and whether the connection was closed behind it.
func (k *kit) talk(raw string) (status int, body string, closed bool) {
	k.t.Helper()
	address := k.http.Listener.Addr().String()
	var conn net.Conn
	var err error
	if k.http.TLS != nil {
		conn, err = tls.Dial("tcp", address, insecure())
	} else {
		conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		k.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		return 0, "", true
	}
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, err.Error(), true
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusContinue {
		return res.StatusCode, "", false
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err.Error(), true
	}
	_, err = reader.Peek(1)
	return res.StatusCode, string(data), errors.Is(err, io.EOF)
}

func TestMalformedHTTPIsRefused(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		for name, raw := range map[string]string{
			"two lengths":           "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
			"unknown coding":        "PUT /b/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n",
			"space before colon":    "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
			"no host":               "GET / HTTP/1.1\r\n\r\n",
			"bad escape":            "GET /%zz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			"header of 40 KiB":      "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n",
			"negative length":       "PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
			"not HTTP":              "hello\r\n\r\n",
			"absolute form, no key": "GET http://h/b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			"connect":               "CONNECT h:1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
			"options star":          "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
		} {
			status, body, closed := k.talk(raw)
			if status != 0 && (status < 400 || status >= 600) && name != "options star" || !closed {
				t.Errorf("%s: status %d, closed %v, %.200s", name, status, closed, body)
			}
		}
	})
}

func TestExpectContinueIsAnsweredOnlyForGoodRequests(t *testing.T) {
	k := newKit(t, false)
	k.bucket("expect")
	r := k.build(request{method: "PUT", target: "/expect/k"})
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	k.sign(r, time.Now())
	head := func(auth string) string {
		return fmt.Sprintf("PUT /expect/k HTTP/1.1\r\nHost: %s\r\nX-Amz-Date: %s\r\nX-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\nAuthorization: %s\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
			k.http.Listener.Addr(), r.Header.Get("X-Amz-Date"), auth)
	}
	if status, body, closed := k.talk(head(spoil(r.Header.Get("Authorization")))); status != 403 || !closed {
		t.Errorf("forged: %d %s", status, body)
	}
	if status, _, _ := k.talk(head(r.Header.Get("Authorization"))); status != 100 {
		t.Errorf("good: %d, want 100", status)
	}
	empty := strings.Replace(head(r.Header.Get("Authorization")), "Content-Length: 5", "Content-Length: 0", 1)
	if status, _, _ := k.talk(empty); status != 100 {
		t.Errorf("good and empty: %d, want 100", status)
	}
	k.do(request{method: "DELETE", target: "/expect/k"}).want(t, 204, "")
	// The client went away behind the 100: nothing may be visible.
	if a := k.do(request{method: "GET", target: "/expect/k"}); a.status != 404 {
		t.Errorf("a body that never came is visible: %d", a.status)
	}
}

func TestCutBodyLeavesNothing(t *testing.T) {
	k := newKit(t, false)
	k.bucket("cut")
	before := k.snapshot()
	for _, method := range []string{"PUT"} {
		r := k.build(request{method: method, target: "/cut/k"})
		r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		k.sign(r, time.Now())
		conn, err := net.Dial("tcp", k.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT /cut/k HTTP/1.1\r\nHost: %s\r\nX-Amz-Date: %s\r\nX-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\nAuthorization: %s\r\nContent-Length: 1000\r\n\r\nhalf",
			k.http.Listener.Addr(), r.Header.Get("X-Amz-Date"), r.Header.Get("Authorization"))
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 400 || !bytes.Contains(body, []byte("IncompleteBody")) {
			t.Errorf("status %d, %s, %v", res.StatusCode, body, err)
		}
		conn.Close()
	}
	if k.snapshot() != before {
		t.Error("a cut body is visible")
	}
}

func TestUploadsAreHeldToTheirRules(t *testing.T) {
	k := newKit(t, false)
	k.bucket("rules")
	id := between(k.do(request{method: "POST", target: "/rules/k?uploads"}).want(t, 200, "").body, "<UploadId>", "</UploadId>")
	for _, n := range []string{"0", "10001", "-1", "x"} {
		k.do(request{"PUT", "/rules/k?uploadId=" + id + "&partNumber=" + n, nil, []byte("x")}).want(t, 400, "InvalidArgument")
	}
	for _, n := range []string{"1", "10000"} {
		k.do(request{"PUT", "/rules/k?uploadId=" + id + "&partNumber=" + n, nil, []byte("x")}).want(t, 200, "")
	}
	complete := func(body string) answer { return k.do(request{"POST", "/rules/k?uploadId=" + id, nil, []byte(body)}) }
	part := func(n int, etag string) string {
		return fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n, etag)
	}
	wrap := func(s string) string { return "<CompleteMultipartUpload>" + s + "</CompleteMultipartUpload>" }
	etag := strings.Trim(etagOf([]byte("x")), `"`)
	complete(wrap("")).want(t, 400, "MalformedXML")
	complete(wrap("<Part><PartNumber>1</PartNumber></Part>")).want(t, 400, "MalformedXML")
	complete(wrap(part(0, etag))).want(t, 400, "InvalidArgument")
	complete(wrap(part(2, etag))).want(t, 400, "InvalidPart")
	complete(wrap(part(1, strings.Repeat("0", 32)))).want(t, 400, "InvalidPart")
	complete(wrap(part(10000, etag)+part(1, etag))).want(t, 400, "InvalidPartOrder")
	complete(wrap(part(1, etag)+part(1, etag))).want(t, 400, "InvalidPartOrder")
	complete(wrap(part(1, etag)+part(10000, etag))).want(t, 400, "EntityTooSmall")
	r := request{"POST", "/rules/k?uploadId=" + id, map[string]string{"X-Amz-Mp-Object-Size": "2"}, []byte(wrap(part(1, etag)))}
	k.do(r).want(t, 400, "InvalidRequest")
	r.header["X-Amz-Mp-Object-Size"] = "1"
	k.do(r).want(t, 200, "")
	for _, q := range []request{{"PUT", "/rules/k?partNumber=1&uploadId=" + id, nil, []byte("x")}, {method: "GET", target: "/rules/k?uploadId=" + id}, {method: "DELETE", target: "/rules/k?uploadId=" + id}, {method: "DELETE", target: "/rules/k?uploadId=nonsense"}} {
		k.do(q).want(t, 404, "NoSuchUpload")
	}
	for _, header := range []map[string]string{{"X-Amz-Checksum-Algorithm": "SHA256", "X-Amz-Checksum-Type": "FULL_OBJECT"}, {"X-Amz-Checksum-Algorithm": "CRC64NVME", "X-Amz-Checksum-Type": "COMPOSITE"}, {"X-Amz-Checksum-Algorithm": "ADLER"}, {"X-Amz-Checksum-Type": "COMPOSITE"}} {
		k.do(request{"POST", "/rules/k?uploads", header, nil}).want(t, 400, "InvalidRequest")
	}
}

func TestNullVersionsAreNotNamedWhenTheyAreMade(t *testing.T) {
	k := newKit(t, false)
	k.bucket("states")
	make := func() (put, complete answer) {
		id := between(k.do(request{method: "POST", target: "/states/m?uploads"}).want(t, 200, "").body, "<UploadId>", "</UploadId>")
		etag := k.put("/states/m?partNumber=1&uploadId="+id, "x", nil).header.Get("Etag")
		list := "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>" + etag + "</ETag></Part></CompleteMultipartUpload>"
		return k.put("/states/k", "x", map[string]string{"Accept": "application/xml"}), k.do(request{"POST", "/states/m?uploadId=" + id, nil, []byte(list)}).want(t, 200, "")
	}
	for state, named := range map[metadata.Versioning]bool{metadata.Unversioned: false, metadata.VersioningSuspended: false, metadata.VersioningEnabled: true} {
		if err := k.store.SetVersioning(t.Context(), "states", state); err != nil {
			t.Fatal(err)
		}
		put, complete := make()
		if id := put.header.Get("X-Amz-Version-Id"); (id != "") != named || strings.Contains(put.body, "<VersionId>") != named {
			t.Errorf("versioning %v: PUT names %q, body %s", state, id, put.body)
		}
		if id := complete.header.Get("X-Amz-Version-Id"); (id != "") != named {
			t.Errorf("versioning %v: Complete names %q", state, id)
		}
	}
	if err := k.store.SetVersioning(t.Context(), "states", metadata.VersioningSuspended); err != nil {
		t.Fatal(err)
	}
	k.put("/states/k", "x", nil)
	for _, method := range []string{"GET", "DELETE"} {
		if id := k.do(request{method: method, target: "/states/k"}).header.Get("X-Amz-Version-Id"); id != "null" {
			t.Errorf("%s names %q", method, id)
		}
	}
}

func TestDeleteMarkersAreNamedToTheReader(t *testing.T) {
	k := newKit(t, false)
	k.bucket("marked")
	for state, id := range map[metadata.Versioning]string{metadata.VersioningSuspended: "null", metadata.VersioningEnabled: ""} {
		if err := k.store.SetVersioning(t.Context(), "marked", state); err != nil {
			t.Fatal(err)
		}
		k.put("/marked/k", "x", nil)
		marker := k.do(request{method: "DELETE", target: "/marked/k"}).want(t, 204, "").header.Get("X-Amz-Version-Id")
		if id != "" && marker != id {
			t.Errorf("marker %q, want %q", marker, id)
		}
		for _, method := range []string{"GET", "HEAD"} {
			for target, status := range map[string]int{"/marked/k": 404, "/marked/k?versionId=" + marker: 405} {
				h := k.do(request{method: method, target: target}).want(t, status, "").header
				if h.Get("X-Amz-Delete-Marker") != "true" || h.Get("X-Amz-Version-Id") != marker || (h.Get("Last-Modified") != "") != (status == 405) || (h.Get("Allow") == "DELETE") != (status == 405) {
					t.Errorf("%s %s: %v", method, target, h)
				}
			}
		}
	}
}

func TestMetricsCountRequests(t *testing.T) {
	registry := prometheus.NewRegistry()
	k := newKit(t, false, func(c *s3.Config) { c.Metrics = registry })
	k.bucket("metrics")
	k.put("/metrics/k", "x", nil)
	k.do(request{method: "GET", target: "/metrics/none"})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += " " + l.GetValue()
			}
			seen[f.GetName()+labels] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{"holdfast_s3_requests_total PutObject 200": 1, "holdfast_s3_requests_total GetObject 404": 1, "holdfast_s3_first_byte_seconds PutObject": 1, "holdfast_s3_request_seconds GetObject": 1} {
		if seen[name] != want {
			t.Errorf("%s is %v, want %v", name, seen[name], want)
		}
	}
	if _, err := s3.New(s3.Config{Store: k.store, Keys: keys, Metrics: registry}); err == nil {
		t.Error("the same series were registered twice")
	}
	if _, err := s3.New(s3.Config{}); err == nil {
		t.Error("a server without a store was made")
	}
}
