package s3_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/minio-go/v7"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// pattern is n bytes that no part of which repeats.
func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	if _, err := r.Read(b); err != nil {
		panic(err)
	}
	return b
}

func etagOf(b []byte) string {
	sum := md5.Sum(b)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// oneWay hides Seek, as a pipe does.
type oneWay struct{ io.Reader }

// keysForAll are keys that break careless servers; all are stored as they are.
var keysForAll = []string{
	"plain", "a b", "a+b", "a%20b", "a%2Fb", "ü/ö/漢字/😀", "../x", "a/./b", "a//b", "/leading", "trailing/", "dir", "dir/", "dir/x", "?q=1&b", "#frag",
	"semi;colon", "=eq", "'quote\"", "<xml>&amp;", "a*b!c(d)e'f", "~tilde", "back\\slash", "tab\there", "colon:@,$", "%", "%zz", "-", "..", ".",
}

func TestAWSClientPutsAndGets(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx, c := t.Context(), k.aws()
		if _, err := c.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: aws.String("sdk"), CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: "eu-somewhere-7"}}); err != nil {
			t.Fatal(err)
		}
		for _, algorithm := range []types.ChecksumAlgorithm{"", "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"} {
			for _, size := range []int{0, 1, 8191, 8192, 65536, 65537, 200_000} {
				body := pattern(size)
				key := fmt.Sprintf("%s-%d", algorithm, size)
				out, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("sdk"), Key: &key, Body: bytes.NewReader(body), ChecksumAlgorithm: algorithm,
					Metadata: map[string]string{"Mood": "fine"}, ContentType: aws.String("text/x"), ContentEncoding: aws.String("gzip"), CacheControl: aws.String("no-store")})
				if err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				if *out.ETag != etagOf(body) {
					t.Errorf("%s: etag %s", key, *out.ETag)
				}
				sums := []*string{out.ChecksumCRC32, out.ChecksumCRC32C, out.ChecksumCRC64NVME, out.ChecksumSHA1, out.ChecksumSHA256}
				if slices.IndexFunc(sums, func(s *string) bool { return s != nil }) < 0 {
					t.Errorf("%s: no checksum comes back", key)
				}
				got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: aws.String("sdk"), Key: &key, ChecksumMode: types.ChecksumModeEnabled})
				if err != nil {
					t.Fatalf("%s: %v", key, err)
				}
				data, err := io.ReadAll(got.Body) // the client verifies the checksum while reading
				if err != nil || !bytes.Equal(data, body) {
					t.Errorf("%s: %d bytes, %v", key, len(data), err)
				}
				if got.Metadata["mood"] != "fine" || *got.ContentType != "text/x" || *got.ContentEncoding != "gzip" || *got.CacheControl != "no-store" {
					t.Errorf("%s: metadata %v, %s, %s, %s", key, got.Metadata, *got.ContentType, *got.ContentEncoding, *got.CacheControl)
				}
			}
		}
		if strings.HasPrefix(k.http.URL, "https") { // the client signs streams over TLS alone
			body := pattern(300_000)
			if _, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("sdk"), Key: aws.String("stream"), Body: oneWay{bytes.NewReader(body)}, ContentLength: aws.Int64(300_000)}); err != nil {
				t.Fatalf("stream: %v", err)
			}
			head, err := c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: aws.String("sdk"), Key: aws.String("stream")})
			if err != nil || *head.ETag != etagOf(body) || head.ChecksumCRC32 != nil {
				t.Errorf("stream: %v, %+v", err, head)
			}
		}
	})
}

func TestEveryKeyIsStoredAsItIs(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx, c, m := t.Context(), k.aws(), k.minio(false)
		k.bucket("keys")
		for _, key := range keysForAll {
			if _, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("keys"), Key: &key, Body: strings.NewReader(key)}); err != nil {
				t.Errorf("put %q: %v", key, err)
				continue
			}
			got, err := m.GetObject(ctx, "keys", key, minio.GetObjectOptions{})
			if err != nil {
				t.Errorf("get %q: %v", key, err) // this client refuses a few names itself
				continue
			}
			data, err := io.ReadAll(got)
			if err != nil && !strings.Contains(err.Error(), "Object name") || err == nil && string(data) != key {
				t.Errorf("get %q: %q, %v", key, data, err)
			}
		}
		var listed []string
		pages := awss3.NewListObjectsV2Paginator(c, &awss3.ListObjectsV2Input{Bucket: aws.String("keys"), MaxKeys: aws.Int32(3)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				listed = append(listed, *o.Key)
			}
		}
		want := slices.Sorted(slices.Values(keysForAll))
		if !slices.Equal(listed, want) {
			t.Errorf("listed %q, want %q", listed, want)
		}
		var plain []string // V1 without encoding, as rclone lists
		for marker := ""; ; {
			page, err := c.ListObjects(ctx, &awss3.ListObjectsInput{Bucket: aws.String("keys"), MaxKeys: aws.Int32(4), Marker: &marker})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				plain = append(plain, *o.Key)
			}
			if !*page.IsTruncated {
				break
			}
			marker = *page.NextMarker
		}
		if !slices.Equal(plain, want) {
			t.Errorf("V1 listed %q", plain)
		}
		var fromMinio []string
		for o := range m.ListObjects(ctx, "keys", minio.ListObjectsOptions{Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			fromMinio = append(fromMinio, o.Key)
		}
		if !slices.Equal(fromMinio, want) {
			t.Errorf("minio listed %q", fromMinio)
		}
		ids := make([]types.ObjectIdentifier, len(keysForAll))
		for i := range keysForAll {
			ids[i].Key = &keysForAll[i]
		}
		out, err := c.DeleteObjects(ctx, &awss3.DeleteObjectsInput{Bucket: aws.String("keys"), Delete: &types.Delete{Objects: ids}})
		if err != nil || len(out.Errors) > 0 || len(out.Deleted) != len(ids) {
			t.Errorf("delete all: %v, %d deleted, errors %+v", err, len(out.Deleted), out.Errors)
		}
		if _, err := c.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: aws.String("keys")}); err != nil {
			t.Errorf("delete the empty bucket: %v", err)
		}
	})
}

func TestMinioClientPutsInEveryMode(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx := t.Context()
		k.bucket("mode")
		for name, options := range map[string]minio.PutObjectOptions{
			"plain":          {},
			"md5":            {SendContentMd5: true},
			"crc32c":         {Checksum: minio.ChecksumCRC32C},
			"crc64nvme":      {Checksum: minio.ChecksumCRC64NVME},
			"sha256":         {Checksum: minio.ChecksumSHA256, UserMetadata: map[string]string{"note": "grüße"}},
			"unsigned":       {DisableContentSha256: true},
			"parts":          {PartSize: 5 << 20, Checksum: minio.ChecksumCRC32},
			"parts parallel": {PartSize: 5 << 20, NumThreads: 3, ConcurrentStreamParts: true},
		} {
			for _, trailing := range []bool{false, true} {
				sizes := []int{0, 1, 70_000}
				if options.PartSize > 0 {
					sizes = []int{11 << 20}
				}
				for _, size := range sizes {
					key := fmt.Sprintf("%s-%v-%d", name, trailing, size)
					body := pattern(size)
					c := k.minio(trailing)
					if options.Checksum.IsSet() && !trailing {
						continue // this client sends checksums in trailers alone
					}
					info, err := c.PutObject(ctx, "mode", key, bytes.NewReader(body), int64(size), options)
					if err != nil {
						t.Errorf("%s: %v", key, err)
						continue
					}
					object, err := c.GetObject(ctx, "mode", key, minio.GetObjectOptions{Checksum: true})
					if err != nil {
						t.Fatal(err)
					}
					data, err := io.ReadAll(object)
					if err != nil || !bytes.Equal(data, body) {
						t.Errorf("%s: %d bytes, %v", key, len(data), err)
					}
					if options.PartSize > 0 && !strings.HasSuffix(info.ETag, "-3") {
						t.Errorf("%s: etag %s", key, info.ETag)
					}
				}
			}
		}
	})
}

func TestPartsGoUpAndComeBack(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx, c := t.Context(), k.aws()
		k.bucket("parts")
		body := pattern(11<<20 + 5)
		for _, sum := range []struct {
			algorithm types.ChecksumAlgorithm
			kind      types.ChecksumType
		}{{"CRC32", "COMPOSITE"}, {"CRC32", "FULL_OBJECT"}, {"CRC32C", "FULL_OBJECT"}, {"CRC64NVME", "FULL_OBJECT"}, {"SHA256", "COMPOSITE"}, {"SHA1", "COMPOSITE"}} {
			name := string(sum.algorithm) + " " + string(sum.kind)
			key := aws.String(name)
			up, err := c.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: aws.String("parts"), Key: key, ChecksumAlgorithm: sum.algorithm, ChecksumType: sum.kind, Metadata: map[string]string{"a": "b"}})
			if err != nil {
				t.Fatal(err)
			}
			var done []types.CompletedPart
			for i, span := range [][2]int{{5 << 20, 10 << 20}, {0, 5 << 20}, {10 << 20, len(body)}} { // in no order
				number := int32([]int{2, 1, 9}[i])
				out, err := c.UploadPart(ctx, &awss3.UploadPartInput{Bucket: aws.String("parts"), Key: key, UploadId: up.UploadId, PartNumber: &number, Body: bytes.NewReader(body[span[0]:span[1]]), ChecksumAlgorithm: sum.algorithm})
				if err != nil {
					t.Fatal(err)
				}
				done = append(done, types.CompletedPart{PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C, ChecksumCRC64NVME: out.ChecksumCRC64NVME, ChecksumSHA1: out.ChecksumSHA1, ChecksumSHA256: out.ChecksumSHA256})
			}
			complete := &awss3.CompleteMultipartUploadInput{Bucket: aws.String("parts"), Key: key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done}}
			if _, err := c.CompleteMultipartUpload(ctx, complete); !codeIs(err, "InvalidPartOrder") {
				t.Errorf("%s: parts out of order: %v", name, err)
			}
			slices.SortFunc(done, func(a, b types.CompletedPart) int { return int(*a.PartNumber - *b.PartNumber) })
			first, err := c.CompleteMultipartUpload(ctx, complete)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again, err := c.CompleteMultipartUpload(ctx, complete)
			if err != nil || *again.ETag != *first.ETag {
				t.Errorf("%s: a second Complete: %v", name, err)
			}
			got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: aws.String("parts"), Key: key, ChecksumMode: types.ChecksumModeEnabled})
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(got.Body) // verifies full-object checksums
			if err != nil || !bytes.Equal(data, body) || got.ChecksumType != sum.kind {
				t.Errorf("%s: %d bytes, %v, type %s", name, len(data), err, got.ChecksumType)
			}
			whole, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("parts"), Key: aws.String("whole"), Body: bytes.NewReader(body), ChecksumAlgorithm: sum.algorithm})
			if err != nil {
				t.Fatal(err)
			}
			if sum.kind == "FULL_OBJECT" && (deref(whole.ChecksumCRC32) != deref(got.ChecksumCRC32) || deref(whole.ChecksumCRC32C) != deref(got.ChecksumCRC32C) || deref(whole.ChecksumCRC64NVME) != deref(got.ChecksumCRC64NVME)) {
				t.Errorf("%s: the combined checksum is not the object's", name)
			}
			second, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: aws.String("parts"), Key: key, PartNumber: aws.Int32(2)})
			if err != nil {
				t.Fatal(err)
			}
			data, err = io.ReadAll(second.Body)
			if err != nil || !bytes.Equal(data, body[5<<20:10<<20]) || *second.PartsCount != 3 {
				t.Errorf("%s: part 2 has %d bytes of %d parts, %v", name, len(data), *second.PartsCount, err)
			}
			attributes, err := c.GetObjectAttributes(ctx, &awss3.GetObjectAttributesInput{Bucket: aws.String("parts"), Key: key, ObjectAttributes: []types.ObjectAttributes{"ETag", "Checksum", "ObjectParts", "ObjectSize", "StorageClass"}})
			if err != nil || *attributes.ObjectSize != int64(len(body)) || *attributes.ObjectParts.TotalPartsCount != 3 || len(attributes.ObjectParts.Parts) != 3 || `"`+*attributes.ETag+`"` != *first.ETag {
				t.Errorf("%s: attributes %+v, %v", name, attributes, err)
			}
			sums := func(crc32, sha1, sha256 *string) string { return deref(crc32) + deref(sha1) + deref(sha256) }
			shown, bare := sums(got.ChecksumCRC32, got.ChecksumSHA1, got.ChecksumSHA256), sums(attributes.Checksum.ChecksumCRC32, attributes.Checksum.ChecksumSHA1, attributes.Checksum.ChecksumSHA256)
			if composite := sum.kind == "COMPOSITE"; strings.HasSuffix(shown, "-3") != composite || strings.TrimSuffix(shown, "-3") != bare {
				t.Errorf("%s: checksum %q, among the attributes %q", name, shown, bare)
			}
		}
	})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// codeIs tells whether an error of the client is the S3 code.
func codeIs(err error, code string) bool {
	var api interface{ ErrorCode() string }
	return errors.As(err, &api) && api.ErrorCode() == code
}

func TestUploadsAndPartsAreListedInPages(t *testing.T) {
	k := newKit(t, false)
	ctx, c := t.Context(), k.aws()
	k.bucket("ups")
	for _, key := range []string{"a/1", "a/2", "b", "b", "c"} {
		up, err := c.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: aws.String("ups"), Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		for n := int32(1); n <= 5; n++ {
			if _, err := c.UploadPart(ctx, &awss3.UploadPartInput{Bucket: aws.String("ups"), Key: &key, UploadId: up.UploadId, PartNumber: &n, Body: strings.NewReader("x")}); err != nil {
				t.Fatal(err)
			}
		}
		var numbers []int32
		parts := awss3.NewListPartsPaginator(c, &awss3.ListPartsInput{Bucket: aws.String("ups"), Key: &key, UploadId: up.UploadId, MaxParts: aws.Int32(2)})
		for parts.HasMorePages() {
			page, err := parts.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range page.Parts {
				numbers = append(numbers, *p.PartNumber)
			}
		}
		if !slices.Equal(numbers, []int32{1, 2, 3, 4, 5}) {
			t.Errorf("parts %v", numbers)
		}
	}
	var seen []string
	uploads := awss3.NewListMultipartUploadsPaginator(c, &awss3.ListMultipartUploadsInput{Bucket: aws.String("ups"), MaxUploads: aws.Int32(1), Delimiter: aws.String("/")})
	for uploads.HasMorePages() {
		page, err := uploads.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.Uploads {
			seen = append(seen, *u.Key)
		}
		for _, p := range page.CommonPrefixes {
			seen = append(seen, *p.Prefix)
		}
	}
	if !slices.Equal(seen, []string{"a/", "b", "b", "c"}) {
		t.Errorf("uploads %q", seen)
	}
}

func TestVersionsAreKeptAndListed(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx, c, bucket := t.Context(), k.aws(), aws.String("versions")
		k.bucket("versions")
		put := func(body string) string {
			out, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: aws.String("k"), Body: strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			return deref(out.VersionId)
		}
		if id := put("null"); id != "" {
			t.Errorf("an unversioned bucket names version %q", id)
		}
		if _, err := c.PutBucketVersioning(ctx, &awss3.PutBucketVersioningInput{Bucket: bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: "Enabled"}}); err != nil {
			t.Fatal(err)
		}
		if v, err := c.GetBucketVersioning(ctx, &awss3.GetBucketVersioningInput{Bucket: bucket}); err != nil || v.Status != "Enabled" {
			t.Errorf("versioning %v, %v", v, err)
		}
		one, two := put("one"), put("two")
		deleted, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: aws.String("k")})
		if err != nil || !*deleted.DeleteMarker {
			t.Fatalf("delete: %+v, %v", deleted, err)
		}
		if _, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("k")}); !codeIs(err, "NoSuchKey") {
			t.Errorf("get behind a marker: %v", err)
		}
		if _, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("k"), VersionId: deleted.VersionId}); !codeIs(err, "MethodNotAllowed") {
			t.Errorf("get a marker: %v", err)
		}
		for id, want := range map[string]string{one: "one", two: "two", "null": "null"} {
			got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("k"), VersionId: &id})
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(got.Body); err != nil || string(data) != want || *got.VersionId != id {
				t.Errorf("version %s: %q, %v", id, data, err)
			}
		}
		var order []string
		for request := (&awss3.ListObjectVersionsInput{Bucket: bucket, MaxKeys: aws.Int32(1)}); ; {
			page, err := c.ListObjectVersions(ctx, request)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range page.Versions {
				order = append(order, *v.VersionId)
			}
			for _, m := range page.DeleteMarkers {
				order = append(order, *m.VersionId)
			}
			if !*page.IsTruncated {
				break
			}
			request.KeyMarker, request.VersionIdMarker = page.NextKeyMarker, page.NextVersionIdMarker
		}
		if !slices.Equal(order, []string{*deleted.VersionId, two, one, "null"}) {
			t.Errorf("versions %q", order)
		}
		if _, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: aws.String("k"), VersionId: deleted.VersionId}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []*string{nil, &one} { // the current version is two
			tagging := &types.Tagging{TagSet: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}
			tagged, err := c.PutObjectTagging(ctx, &awss3.PutObjectTaggingInput{Bucket: bucket, Key: aws.String("k"), VersionId: id, Tagging: tagging})
			if err != nil || deref(tagged.VersionId) != cmp.Or(deref(id), two) {
				t.Errorf("tags of version %q: %+v, %v", deref(id), tagged, err)
			}
			cleared, err := c.DeleteObjectTagging(ctx, &awss3.DeleteObjectTaggingInput{Bucket: bucket, Key: aws.String("k"), VersionId: id})
			if err != nil || deref(cleared.VersionId) != cmp.Or(deref(id), two) {
				t.Errorf("no tags of version %q: %+v, %v", deref(id), cleared, err)
			}
		}
		restored, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("k"), CopySource: aws.String("versions/k?versionId=" + one)})
		if err != nil || deref(restored.CopySourceVersionId) != one {
			t.Fatalf("restore: %+v, %v", restored, err)
		}
		got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("k")})
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(got.Body); err != nil || string(data) != "one" {
			t.Errorf("restored %q, %v", data, err)
		}
		all, err := c.ListObjectVersions(ctx, &awss3.ListObjectVersionsInput{Bucket: bucket})
		if err != nil {
			t.Fatal(err)
		}
		var ids []types.ObjectIdentifier
		for _, v := range all.Versions {
			ids = append(ids, types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
		}
		out, err := c.DeleteObjects(ctx, &awss3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
		if err != nil || len(out.Errors)+len(out.Deleted) != 0 {
			t.Errorf("wipe: %+v, %v", out, err)
		}
		if _, err := c.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: bucket}); err != nil {
			t.Errorf("delete the wiped bucket: %v", err)
		}
	})
}

func TestCopiesKeepAndReplace(t *testing.T) {
	k := newKit(t, false)
	ctx, c, bucket := t.Context(), k.aws(), aws.String("copies")
	k.bucket("copies")
	body := pattern(6 << 20)
	if _, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: aws.String("a ü+b"), Body: bytes.NewReader(body), Metadata: map[string]string{"m": "1"}, Tagging: aws.String("t=1&u=a%20b"), ContentType: aws.String("text/a")}); err != nil {
		t.Fatal(err)
	}
	source := aws.String("copies/a%20%C3%BC%2Bb")
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("b"), CopySource: source}); err != nil {
		t.Fatal(err)
	}
	head, err := c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: bucket, Key: aws.String("b")})
	if err != nil || head.Metadata["m"] != "1" || *head.ContentType != "text/a" || *head.ETag != etagOf(body) {
		t.Errorf("copy: %+v, %v", head, err)
	}
	tags, err := c.GetObjectTagging(ctx, &awss3.GetObjectTaggingInput{Bucket: bucket, Key: aws.String("b")})
	if err != nil || len(tags.TagSet) != 2 || *tags.TagSet[1].Value != "a b" {
		t.Errorf("tags of the copy: %+v, %v", tags, err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("b"), CopySource: aws.String("copies/b")}); !codeIs(err, "InvalidRequest") {
		t.Errorf("a copy to itself that changes nothing: %v", err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("b"), CopySource: aws.String("copies/b"), MetadataDirective: "REPLACE", Metadata: map[string]string{"m": "2"}, TaggingDirective: "REPLACE", Tagging: aws.String("x=y")}); err != nil {
		t.Errorf("a copy to itself with new metadata: %v", err)
	}
	head, err = c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: bucket, Key: aws.String("b")})
	if err != nil || head.Metadata["m"] != "2" || *head.ContentType != "binary/octet-stream" {
		t.Errorf("replaced: %+v, %v", head, err)
	}
	// Storage class and redirect are the copy's own.
	classed := &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("b"), CopySource: aws.String("copies/b"), StorageClass: types.StorageClassStandardIa, WebsiteRedirectLocation: aws.String("/there")}
	if _, err := c.CopyObject(ctx, classed); err != nil {
		t.Errorf("a copy to itself with a new storage class: %v", err)
	}
	head, err = c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: bucket, Key: aws.String("b")})
	if err != nil || head.StorageClass != types.StorageClassStandardIa || deref(head.WebsiteRedirectLocation) != "/there" || head.Metadata["m"] != "2" {
		t.Errorf("new storage class: %+v, %v", head, err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("plain"), CopySource: aws.String("copies/b"), ExpectedSourceBucketOwner: aws.String("1234")}); !codeIs(err, "AccessDenied") {
		t.Errorf("a copy of another owner's bucket: %v", err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("plain"), CopySource: aws.String("copies/b")}); err != nil {
		t.Fatal(err)
	}
	head, err = c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: bucket, Key: aws.String("plain")})
	if err != nil || head.StorageClass != "" || head.WebsiteRedirectLocation != nil || head.Metadata["m"] != "2" {
		t.Errorf("copy without a storage class: %+v, %v", head, err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("c"), CopySource: source, CopySourceIfMatch: aws.String("other")}); !codeIs(err, "PreconditionFailed") {
		t.Errorf("a condition that does not hold: %v", err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("c"), CopySource: aws.String("copies/none")}); !codeIs(err, "NoSuchKey") {
		t.Errorf("no source: %v", err)
	}
	up, err := c.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: bucket, Key: aws.String("joined")})
	if err != nil {
		t.Fatal(err)
	}
	var parts []types.CompletedPart
	for i, span := range []string{"bytes=0-5242879", "bytes=5242870-6291455"} {
		out, err := c.UploadPartCopy(ctx, &awss3.UploadPartCopyInput{Bucket: bucket, Key: aws.String("joined"), UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)), CopySource: source, CopySourceRange: &span})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, types.CompletedPart{ETag: out.CopyPartResult.ETag, PartNumber: aws.Int32(int32(i + 1))})
	}
	for _, span := range []string{"bytes=0-6291456", "bytes=5-", "bytes=-5", "0-5", "bytes=9-5"} {
		if _, err := c.UploadPartCopy(ctx, &awss3.UploadPartCopyInput{Bucket: bucket, Key: aws.String("joined"), UploadId: up.UploadId, PartNumber: aws.Int32(3), CopySource: source, CopySourceRange: &span}); !codeIs(err, "InvalidArgument") {
			t.Errorf("range %q: %v", span, err)
		}
	}
	if _, err := c.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{Bucket: bucket, Key: aws.String("joined"), UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("joined")})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(got.Body); err != nil || !bytes.Equal(data, append(bytes.Clone(body[:5<<20]), body[5242870:]...)) {
		t.Errorf("joined: %d bytes, %v", len(data), err)
	}
}

func TestPresignedRequestsWorkAndExpire(t *testing.T) {
	both(t, func(t *testing.T, k *kit) {
		ctx := t.Context()
		k.bucket("presign")
		p := awss3.NewPresignClient(k.aws())
		put, err := p.PresignPutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("presign"), Key: aws.String("a b+c")}, awss3.WithPresignExpires(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		send := func(method, url, body string, header http.Header) answer {
			r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range header {
				r.Header[name] = values
			}
			return k.send(r)
		}
		send("PUT", put.URL, "presigned", put.SignedHeader).want(t, 200, "")
		get, err := p.PresignGetObject(ctx, &awss3.GetObjectInput{Bucket: aws.String("presign"), Key: aws.String("a b+c"), ResponseContentDisposition: aws.String("attachment")})
		if err != nil {
			t.Fatal(err)
		}
		a := send("GET", get.URL, "", nil).want(t, 200, "")
		if a.body != "presigned" || a.header.Get("Content-Disposition") != "attachment" {
			t.Errorf("presigned get: %q, %v", a.body, a.header)
		}
		send("PUT", get.URL, "x", nil).want(t, 403, "SignatureDoesNotMatch")
		send("DELETE", get.URL, "", nil).want(t, 403, "SignatureDoesNotMatch")
		send("GET", get.URL+"&versionId=null", "", nil).want(t, 403, "SignatureDoesNotMatch")
		send("GET", strings.Replace(get.URL, "a%20b", "a%20c", 1), "", nil).want(t, 403, "SignatureDoesNotMatch")
		send("PUT", put.URL, "x", http.Header{"X-Amz-Meta-A": {"1"}}).want(t, 403, "AccessDenied")
		send("PUT", put.URL, "x", http.Header{"X-Csp-Meta-A": {"1"}}).want(t, 403, "AccessDenied")
		u, err := k.minio(false).PresignedGetObject(ctx, "presign", "a b+c", time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		send("GET", u.String(), "", nil).want(t, 200, "")
	})
}

func TestPresignedQueriesCarryMetadata(t *testing.T) {
	k := newKit(t, false)
	k.bucket("hoist")
	send := func(query string, header map[string]string) answer {
		r := k.build(request{"PUT", "/hoist/k?" + query, header, []byte("x")})
		signed, err := sigv4.FromClient(r)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = sigv4.Presign(signed, sigv4.Credentials{AccessKey: accessKey, SecretKey: secretKey}, "us-east-1", time.Now(), time.Minute)
		return k.send(r)
	}
	// Checksums and tags in a query mean nothing: SDKs rely on that.
	send("X-Amz-Meta-Color=dark%20red&x-csp-meta-team=a&x-amz-storage-class=STANDARD_IA&x-amz-acl=private&x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-amz-tagging=a%3Db", nil).want(t, 200, "")
	a := k.do(request{method: "HEAD", target: "/hoist/k"}).want(t, 200, "")
	for name, want := range map[string]string{"X-Amz-Meta-Color": "dark red", "X-Csp-Meta-Team": "a", "X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Tagging-Count": ""} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	send("x-amz-meta-color=red", map[string]string{"X-Amz-Meta-Color": "red"}).want(t, 200, "")
	send("x-amz-meta-color=red", map[string]string{"X-Amz-Meta-Color": "blue"}).want(t, 400, "InvalidRequest")
	send("x-amz-acl=public-read", nil).want(t, 400, "AccessControlListNotSupported")
	send("x-amz-server-side-encryption=AES256", nil).want(t, 501, "NotImplemented")
	// A query that the signature of a header covers is no place for them.
	k.do(request{"PUT", "/hoist/plain?x-amz-meta-color=red", nil, []byte("x")}).want(t, 200, "")
	if got := k.do(request{method: "HEAD", target: "/hoist/plain"}).header.Get("X-Amz-Meta-Color"); got != "" {
		t.Errorf("metadata %q of a request that was not presigned", got)
	}
}

func TestConditionsOfWritesHold(t *testing.T) {
	k := newKit(t, false)
	ctx, c := context.Background(), k.aws()
	k.bucket("lock")
	put := func(match, noneMatch *string) error {
		_, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String("lock"), Key: aws.String("l"), Body: strings.NewReader("1"), IfMatch: match, IfNoneMatch: noneMatch})
		return err
	}
	if err := put(nil, aws.String("*")); err != nil {
		t.Fatal(err)
	}
	if err := put(nil, aws.String("*")); !codeIs(err, "PreconditionFailed") {
		t.Errorf("second lock: %v", err)
	}
	if err := put(aws.String(`"00000000000000000000000000000000"`), nil); !codeIs(err, "PreconditionFailed") {
		t.Errorf("wrong etag: %v", err)
	}
	if err := put(aws.String(etagOf([]byte("1"))), nil); err != nil {
		t.Errorf("right etag: %v", err)
	}
	if _, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: aws.String("lock"), Key: aws.String("l"), IfMatch: aws.String("x")}); !codeIs(err, "PreconditionFailed") {
		t.Errorf("delete with a wrong etag: %v", err)
	}
	if _, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: aws.String("lock"), Key: aws.String("l"), IfMatch: aws.String("*")}); err != nil {
		t.Errorf("delete of whatever is there: %v", err)
	}
	// What must be there and is not is missing for a write, and a failed condition for a delete.
	for _, match := range []string{"*", "x"} {
		if err := put(&match, nil); !codeIs(err, "NoSuchKey") {
			t.Errorf("put over nothing with if-match %s: %v", match, err)
		}
		if _, err := c.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: aws.String("lock"), Key: aws.String("l"), IfMatch: &match}); !codeIs(err, "PreconditionFailed") {
			t.Errorf("delete of nothing with if-match %s: %v", match, err)
		}
	}
	if err := put(nil, aws.String("x")); err != nil {
		t.Errorf("put of anything but that etag: %v", err)
	}
	if err := put(nil, aws.String(etagOf([]byte("1")))); !codeIs(err, "PreconditionFailed") {
		t.Errorf("put over that very etag: %v", err)
	}
}
