// Package s3 drives the running binary with the client programs and libraries that people use, unmodified, over HTTP
// and HTTPS.
package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast/holdfast/tests/testkit"
)

const minute = time.Minute

// eachScheme runs a test over HTTP and over HTTPS.
func eachScheme(t *testing.T, test func(t *testing.T, s *testkit.Server)) {
	for name, secure := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) { test(t, testkit.Up(t, testkit.Options{TLS: secure})) })
	}
}

// random writes a file of size pseudo-random bytes and returns its SHA-256.
func random(t *testing.T, path string, size int64) string {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	if _, err := io.CopyN(io.MultiWriter(file, h), source, size); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func digest(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// smallTree makes a directory of files with awkward names and sizes.
func smallTree(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	names := []string{"plain.txt", "with space.txt", "plus+sign", "percent%41", "ümläut-日本", "deep/a/b/c/d", "amp&lt<>", "quote'\"", "tilde~", "semi;colon", "equals=", "q?mark", "hash#tag", "bracket[1]", "star*"}
	for i := range n {
		name := names[i%len(names)]
		if i >= len(names) {
			name = fmt.Sprintf("dir%d/%s-%d", i%7, strings.ReplaceAll(name, "/", "_"), i)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		random(t, path, int64(i*i*37)%300_000)
	}
	return dir
}

func TestAWSCLI(t *testing.T) {
	programs := map[string]string{"debian": "/usr/bin/aws"}
	if path := testkit.Need(t, "aws"); path != "/usr/bin/aws" {
		programs["path"] = path
	}
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			eachScheme(t, func(t *testing.T, s *testkit.Server) { awscli(t, s, program, name == "path") })
		})
	}
}

func awscli(t *testing.T, s *testkit.Server, program string, large bool) {
	run := func(args ...string) string {
		t.Helper()
		args = append([]string{"--endpoint-url", s.Endpoint}, args...)
		if s.CAFile != "" {
			args = append([]string{"--ca-bundle", s.CAFile}, args...)
		}
		return s.Run(5*minute, program, args...)
	}
	run("s3", "mb", "s3://cli")
	dir := t.TempDir()
	sizes := []int64{0, 1, 4096, 16<<10 + 1, 5<<20 + 7, 40 << 20}
	if large && s.CAFile == "" {
		sizes = append(sizes, 1<<30)
	}
	for _, size := range sizes {
		source, back := filepath.Join(dir, fmt.Sprintf("f%d", size)), filepath.Join(dir, "back")
		want := random(t, source, size)
		run("s3", "cp", "--only-show-errors", source, fmt.Sprintf("s3://cli/objects/f%d", size))
		run("s3", "cp", "--only-show-errors", fmt.Sprintf("s3://cli/objects/f%d", size), back)
		if got := digest(t, back); got != want {
			t.Fatalf("%d bytes came back different: %s, want %s", size, got, want)
		}
		if err := os.Remove(source); err != nil {
			t.Fatal(err)
		}
	}
	tree := smallTree(t, 40)
	run("s3", "sync", "--only-show-errors", tree, "s3://cli/tree")
	if out := run("s3", "sync", tree, "s3://cli/tree"); strings.Contains(out, "upload:") {
		t.Errorf("second sync uploads again:\n%s", out)
	}
	copied := filepath.Join(dir, "tree")
	run("s3", "sync", "--only-show-errors", "s3://cli/tree", copied)
	s.Run(minute, "diff", "-r", tree, copied)
	run("s3", "cp", "--only-show-errors", "s3://cli/objects/f4096", "s3://cli/copy")
	run("s3", "mv", "--only-show-errors", "s3://cli/copy", "s3://cli/moved")

	// Outside of us-east-1 every version of awscli presigns with SigV4; version 1 still uses SigV2 there.
	link := strings.TrimSpace(run("--region", "eu-central-1", "s3", "presign", "s3://cli/moved", "--expires-in", "60"))
	response, err := s.HTTP().Get(link)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || len(body) != 4096 {
		t.Fatalf("presigned GET: %v, status %d, %d bytes", err, response.StatusCode, len(body))
	}
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	run("s3", "rm", "--only-show-errors", "--recursive", "s3://cli")
	if out := run("s3", "ls", "--recursive", "s3://cli"); strings.TrimSpace(out) != "" {
		t.Errorf("after rm --recursive the bucket lists:\n%s", out)
	}
	// What rb does not see does not keep it from removing the bucket: an upload that somebody left.
	run("s3api", "create-multipart-upload", "--bucket", "cli", "--key", "left")
	run("s3", "rb", "s3://cli")
}

//go:embed boto3_check.py
var boto3Check string

func TestBoto3(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		script := filepath.Join(t.TempDir(), "check.py")
		if err := os.WriteFile(script, []byte(boto3Check), 0o600); err != nil {
			t.Fatal(err)
		}
		pythons := []string{"/usr/bin/python3"}
		if path := testkit.Need(t, "python3"); path != pythons[0] {
			if _, err := s.Try(minute, path, "-c", "import boto3"); err == nil {
				pythons = append(pythons, path)
			}
		}
		for i, python := range pythons {
			out := s.Run(3*minute, python, script, s.Endpoint, s.CAFile, fmt.Sprintf("boto%d", i))
			if !strings.Contains(out, "all checks passed") {
				t.Errorf("%s: %s", python, out)
			}
		}
	})
}

func TestS3cmd(t *testing.T) {
	testkit.Need(t, "s3cmd")
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		run := func(args ...string) string {
			t.Helper()
			flags := []string{"--config=/dev/null", "--host=" + s.Addr, "--host-bucket=" + s.Addr, "--access_key=" + testkit.AccessKey, "--secret_key=" + testkit.SecretKey, "--no-progress"}
			if s.CAFile == "" {
				flags = append(flags, "--no-ssl")
			} else {
				flags = append(flags, "--ssl", "--ca-certs="+s.CAFile)
			}
			return s.Run(3*minute, "s3cmd", append(flags, args...)...)
		}
		run("mb", "s3://cmd")
		tree := smallTree(t, 30)
		run("sync", tree+"/", "s3://cmd/tree/")
		back := t.TempDir()
		run("sync", "s3://cmd/tree/", back+"/")
		s.Run(minute, "diff", "-r", tree, back)
		big, got := filepath.Join(t.TempDir(), "big"), filepath.Join(t.TempDir(), "got")
		want := random(t, big, 33<<20)
		run("put", big, "s3://cmd/big")
		run("get", "s3://cmd/big", got)
		if digest(t, got) != want {
			t.Error("a multipart upload by s3cmd came back different")
		}
		run("cp", "s3://cmd/big", "s3://cmd/big2")
		run("info", "s3://cmd/big2")
		if out := run("ls", "--recursive", "s3://cmd"); !strings.Contains(out, "big2") {
			t.Errorf("ls does not show the copy:\n%s", out)
		}
		run("del", "--recursive", "--force", "s3://cmd")
		run("rb", "s3://cmd")
	})
}

func TestRclone(t *testing.T) {
	testkit.Need(t, "rclone")
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		config := filepath.Join(t.TempDir(), "rclone.conf")
		text := fmt.Sprintf("[hf]\ntype = s3\nprovider = Other\naccess_key_id = %s\nsecret_access_key = %s\nendpoint = %s\n", testkit.AccessKey, testkit.SecretKey, s.Endpoint)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) string {
			t.Helper()
			flags := []string{"--config", config}
			if s.CAFile != "" {
				flags = append(flags, "--ca-cert", s.CAFile)
			}
			return s.Run(3*minute, "rclone", append(flags, args...)...)
		}
		run("mkdir", "hf:rclone")
		tree := smallTree(t, 50)
		random(t, filepath.Join(tree, "multipart"), 27<<20)
		run("copy", "--s3-upload-cutoff", "10M", "--s3-chunk-size", "5M", tree, "hf:rclone/tree")
		run("check", tree, "hf:rclone/tree")
		if out := run("copy", "-v", "--stats-one-line", tree, "hf:rclone/tree"); strings.Contains(out, ": Copied") {
			t.Errorf("second copy transfers again:\n%s", out)
		}
		back := t.TempDir()
		run("sync", "hf:rclone/tree", back)
		s.Run(minute, "diff", "-r", tree, back)
		run("move", "hf:rclone/tree", "hf:rclone/moved")
		run("check", tree, "hf:rclone/moved")
		run("purge", "hf:rclone")
	})
}

func TestRestic(t *testing.T) {
	testkit.Need(t, "restic")
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		run := func(args ...string) string {
			t.Helper()
			flags := []string{"RESTIC_PASSWORD=x", "restic", "--no-cache", "-r", "s3:" + s.Endpoint + "/restic/repo"}
			if s.CAFile != "" {
				flags = append(flags, "--cacert", s.CAFile)
			}
			return s.Run(4*minute, "env", append(flags, args...)...)
		}
		run("init")
		tree := smallTree(t, 80)
		random(t, filepath.Join(tree, "large"), 30<<20)
		run("backup", tree)
		if err := os.Remove(filepath.Join(tree, "plain.txt")); err != nil {
			t.Fatal(err)
		}
		run("backup", tree)
		run("check", "--read-data")
		back := t.TempDir()
		run("restore", "latest", "--target", back)
		s.Run(minute, "diff", "-r", tree, filepath.Join(back, tree))
		run("forget", "--keep-last", "1", "--prune")
		run("check", "--read-data")
	})
}

func TestMinioGo(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		client, err := minio.New(s.Addr, &minio.Options{
			Creds: credentials.NewStaticV4(testkit.AccessKey, testkit.SecretKey, ""), Secure: s.CAFile != "", Transport: testkit.Transport(t, s.CAFile),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*minute)
		defer cancel()
		if err := client.MakeBucket(ctx, "minio", minio.MakeBucketOptions{}); err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 36<<20)
		if _, err := rand.NewChaCha8([32]byte{7}).Read(body); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, 5000, 700_000, 36 << 20} {
			for _, known := range []bool{true, false} {
				length := int64(size)
				if !known {
					length = -1
				}
				_, err := client.PutObject(ctx, "minio", "o", bytes.NewReader(body[:size]), length, minio.PutObjectOptions{PartSize: 8 << 20, UserMetadata: map[string]string{"Answer": "42"}})
				if err != nil {
					t.Fatalf("put %d bytes (length known: %v): %v", size, known, err)
				}
				object, err := client.GetObject(ctx, "minio", "o", minio.GetObjectOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(object)
				if err != nil || !bytes.Equal(got, body[:size]) {
					t.Fatalf("get %d bytes: %v, %d bytes equal %v", size, err, len(got), bytes.Equal(got, body[:size]))
				}
				if info, err := object.Stat(); err != nil || info.UserMetadata["Answer"] != "42" {
					t.Fatalf("stat: %v, user metadata %v", err, info.UserMetadata)
				}
			}
		}
		if _, err := client.CopyObject(ctx, minio.CopyDestOptions{Bucket: "minio", Object: "copy"}, minio.CopySrcOptions{Bucket: "minio", Object: "o"}); err != nil {
			t.Fatal(err)
		}
		names := 0
		for object := range client.ListObjects(ctx, "minio", minio.ListObjectsOptions{Recursive: true}) {
			if object.Err != nil {
				t.Fatal(object.Err)
			}
			names++
		}
		if names != 2 {
			t.Fatalf("%d objects listed, want 2", names)
		}
	})
}

func TestAWSSDKGo(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *testkit.Server) {
		client := s.S3()
		ctx, cancel := context.WithTimeout(context.Background(), 3*minute)
		defer cancel()
		s.MakeBucket("sdk")
		for _, algorithm := range append(types.ChecksumAlgorithm("").Values(), "") {
			if algorithm != "" && !strings.Contains("CRC32 CRC32C SHA1 SHA256 CRC64NVME", string(algorithm)) {
				continue
			}
			body := strings.Repeat("holdfast ", 9000)
			if _, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("sdk"), Key: aws.String("k"), Body: strings.NewReader(body), ChecksumAlgorithm: algorithm}); err != nil {
				t.Fatalf("put with %q: %v", algorithm, err)
			}
			object, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("sdk"), Key: aws.String("k"), ChecksumMode: types.ChecksumModeEnabled})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(object.Body)
			if err != nil || string(got) != body {
				t.Fatalf("get with %q: %v, equal %v", algorithm, err, string(got) == body)
			}
			if err := object.Body.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("sdk"), Key: aws.String("k"), Body: strings.NewReader("x"), IfNoneMatch: aws.String("*")}); err == nil {
			t.Fatal("If-None-Match: * replaced an object")
		}
		objects := make([]types.ObjectIdentifier, 0, 1000)
		for i := range 1000 {
			objects = append(objects, types.ObjectIdentifier{Key: aws.String(fmt.Sprintf("missing-%d", i))})
		}
		objects[0].Key = aws.String("k")
		out, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: aws.String("sdk"), Delete: &types.Delete{Objects: objects}})
		if err != nil || len(out.Errors) != 0 || len(out.Deleted) != 1000 {
			t.Fatalf("DeleteObjects: %v, %d errors, %d deleted", err, len(out.Errors), len(out.Deleted))
		}
	})
}

func TestVirtualHostedStyle(t *testing.T) {
	s := testkit.Up(t, testkit.Options{Args: []string{"--domain", "localhost"}})
	s.MakeBucket("hosted")
	_, port, _ := strings.Cut(s.Addr, ":")
	client := s.S3(func(o *s3.Options) {
		o.UsePathStyle = false
		o.BaseEndpoint = aws.String("http://localhost:" + port)
		o.HTTPClient = &http.Client{Transport: loopback{s.Addr, testkit.Transport(t, "")}}
	})
	ctx, cancel := context.WithTimeout(context.Background(), minute)
	defer cancel()
	if _, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("hosted"), Key: aws.String("a/b c"), Body: strings.NewReader("by host")}); err != nil {
		t.Fatal(err)
	}
	out, err := s.S3().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("hosted"), Key: aws.String("a/b c")})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(out.Body)
	if err != nil || string(body) != "by host" {
		t.Fatalf("%q, %v", body, err)
	}
	if err := out.Body.Close(); err != nil {
		t.Fatal(err)
	}
}

// loopback sends requests for any host to one address, as a wildcard DNS entry would.
type loopback struct {
	addr string
	next http.RoundTripper
}

func (l loopback) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	if !strings.HasPrefix(request.URL.Host, "hosted.localhost:") {
		return nil, fmt.Errorf("request for %s is not in virtual-hosted style", request.URL.Host)
	}
	request.Host, request.URL.Host = request.URL.Host, l.addr
	return l.next.RoundTrip(request)
}
