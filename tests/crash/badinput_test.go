package crash

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfast/holdfast/tests/testkit"
)

// refused runs the server's command again with changed arguments and wants it to end soon, with an error that says why.
func refused(t *testing.T, s *testkit.Server, want string, args ...string) {
	t.Helper()
	out, err := s.Try(30*time.Second, testkit.Binary(t), args...)
	if err == nil {
		t.Errorf("%v succeeded:\n%s", args, out)
	}
	if !strings.Contains(strings.ToLower(out), want) {
		t.Errorf("%v does not say %q:\n%s", args, want, out)
	}
	if strings.Contains(out, "panic") || strings.Contains(out, "goroutine ") {
		t.Errorf("%v panicked:\n%s", args, out)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}()
	return listener.Addr().String()
}

func TestBadSurroundingsAreNamed(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("kept")
	l := newLedger(t, "kept")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if l.load(ctx, s, 2) == 0 {
		t.Fatal("no load")
	}
	refused(t, s, "in use", "up", "--dir", s.Dir, "--s3", freePort(t))
	refused(t, s, "in use", "up", "--dir", filepath.Join(t.TempDir(), "other"), "--s3", s.Addr)
	refused(t, s, "no such", "mount", "home", filepath.Join(t.TempDir(), "missing"))
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, s, "not empty", "mount", "kept", full)
	refused(t, s, "no such bucket", "mount", "nobucket", t.TempDir())
	l.audit(s)
}

func TestForeignDriveIsRefused(t *testing.T) {
	one := testkit.Up(t, testkit.Options{})
	two := testkit.Up(t, testkit.Options{})
	for _, s := range []*testkit.Server{one, two} {
		s.MakeBucket("kept")
	}
	l := newLedger(t, "kept")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if l.load(ctx, one, 2) == 0 {
		t.Fatal("no load")
	}
	one.Stop()
	two.Stop()
	drive := func(s *testkit.Server) string { return filepath.Join(s.Dir, "drives", "d4") }
	aside := filepath.Join(t.TempDir(), "aside")
	for _, pair := range [][2]string{{drive(one), aside}, {drive(two), drive(one)}} {
		if err := os.Rename(pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
	}
	// The other eleven serve; the foreign one is named and left as it is.
	before, err := exec.Command("sh", "-c", "cd "+drive(one)+" && find . -type f | sort | xargs sha256sum").Output()
	if err != nil {
		t.Fatal(err)
	}
	one.Start()
	one.WaitReady(30 * time.Second)
	if out := one.Holdfast("drive", "ls"); !strings.Contains(out, "another cluster") {
		t.Errorf("drive ls does not name the foreign drive:\n%s", out)
	}
	l.audit(one)
	one.Stop()
	after, err := exec.Command("sh", "-c", "cd "+drive(one)+" && find . -type f | sort | xargs sha256sum").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("a drive of another cluster was changed")
	}
}

func TestBodyCutOffHalfWayIsInvisible(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("cut")
	presign := s3.NewPresignClient(s.S3())
	for _, size := range []int{10, 100_000, 5 << 20, 30 << 20} {
		key := fmt.Sprint("half-", size)
		request, err := presign.PresignPutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("cut"), Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		connection, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(request.URL, s.Endpoint)
		head := fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", path, s.Addr, size)
		if _, err := io.WriteString(connection, head+strings.Repeat("x", size/2)); err != nil {
			t.Fatal(err)
		}
		if err := connection.Close(); err != nil {
			t.Fatal(err)
		}
		// A later write of the same key must not be disturbed, and the half must never show up.
		if _, err := get(context.Background(), s.S3(), "cut", key); err == nil {
			t.Errorf("half of %s is visible", key)
		}
	}
	out, err := s.S3().ListObjectsV2(context.Background(), &s3.ListObjectsV2Input{Bucket: aws.String("cut")})
	if err != nil || len(out.Contents) != 0 {
		t.Errorf("the bucket lists %d objects after cut-off bodies, %v", len(out.Contents), err)
	}
}

func TestWrongRequestsGetClearAnswers(t *testing.T) {
	s := testkit.Up(t, testkit.Options{})
	s.MakeBucket("bad")
	client := s.S3(func(o *s3.Options) { o.RetryMaxAttempts = 1 })
	put := func(change ...func(*s3.Options)) error {
		_, err := client.PutObject(context.Background(), &s3.PutObjectInput{Bucket: aws.String("bad"), Key: aws.String("k"), Body: strings.NewReader("body")}, change...)
		return err
	}
	keys := func(access, secret string) func(*s3.Options) {
		return func(o *s3.Options) { o.Credentials = credentials.NewStaticCredentialsProvider(access, secret, "") }
	}
	for want, err := range map[string]error{
		"InvalidAccessKeyId":    put(keys("NOBODY", testkit.SecretKey)),
		"SignatureDoesNotMatch": put(keys(testkit.AccessKey, "wrong")),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for name, test := range map[string]struct {
		method, path, body string
		status             int
	}{
		"unsigned":     {"GET", "/bad/k", "", http.StatusForbidden},
		"unsigned put": {"PUT", "/bad/k", "x", http.StatusForbidden},
		"admin":        {"GET", "/-/admin/status", "", http.StatusForbidden},
	} {
		request, err := http.NewRequest(test.method, s.Endpoint+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := s.HTTP().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != test.status {
			t.Errorf("%s: status %d, want %d: %s %v", name, response.StatusCode, test.status, text, err)
		}
		if strings.Contains(string(text), s.Dir) {
			t.Errorf("%s: the answer names a path of the server: %s", name, text)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := get(context.Background(), client, "bad", "k"); err == nil {
		t.Error("a refused write is visible")
	}
}
