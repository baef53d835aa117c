package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/minio-go/v7"
	miniocreds "github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast/holdfast/multipart/s3"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
	"github.com/holdfast/holdfast/tests/model"
)

const (
	accessKey = "AKTESTTESTTESTTEST00"
	secretKey = "secret/with+odd=characters/0123456789abc"
	otherKey  = "AKOTHEROTHEROTHER000"
)

func keys(_ context.Context, access string) (string, s3.Principal, error) {
	switch access {
	case accessKey:
		return secretKey, s3.Principal{AccessKey: access, Name: "root", Root: true}, nil
	case otherKey:
		return "another secret", s3.Principal{AccessKey: access, Name: "other"}, nil
	}
	return "", s3.Principal{}, s3.ErrNoSuchAccessKey
}

// kit is a server over the model, on a loopback socket.
type kit struct {
	t     *testing.T
	store *model.Store
	s3    *s3.Server
	http  *httptest.Server
}

// option changes the configuration of a kit.
type option func(*s3.Config)

func newKit(t *testing.T, useTLS bool, options ...option) *kit {
	t.Helper()
	k := &kit{t: t, store: model.New()}
	config := s3.Config{Store: k.store, Keys: keys, Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelError}))}
	for _, o := range options {
		o(&config)
	}
	var err error
	if k.s3, err = s3.New(config); err != nil {
		t.Fatal(err)
	}
	k.http = httptest.NewUnstartedServer(k.s3)
	k.http.Config = s3.HTTPServer("", k.s3)
	if useTLS {
		k.http.StartTLS()
	} else {
		k.http.Start()
	}
	t.Cleanup(k.http.Close)
	return k
}

// testLog gives what the server logs to the test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// both runs a test over HTTP and over HTTPS.
func both(t *testing.T, test func(t *testing.T, k *kit)) {
	for name, useTLS := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) { test(t, newKit(t, useTLS)) })
	}
}

func (k *kit) aws(options ...func(*awss3.Options)) *awss3.Client {
	return awss3.New(awss3.Options{
		Region: "eu-somewhere-7", BaseEndpoint: aws.String(k.http.URL), UsePathStyle: true, HTTPClient: k.http.Client(),
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""), RetryMaxAttempts: 1,
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
	}, options...)
}

func (k *kit) minio(trailing bool) *minio.Client {
	k.t.Helper()
	c, err := minio.New(strings.TrimPrefix(strings.TrimPrefix(k.http.URL, "http://"), "https://"), &minio.Options{
		Creds: miniocreds.NewStaticV4(accessKey, secretKey, ""), Secure: strings.HasPrefix(k.http.URL, "https"), Transport: k.http.Client().Transport,
		TrailingHeaders: trailing, MaxRetries: 1,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// request is a raw request that is signed by our own signer.
type request struct {
	method, target string // target as it goes over the wire
	header         map[string]string
	body           []byte
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (k *kit) build(q request) *http.Request {
	k.t.Helper()
	r, err := http.NewRequestWithContext(k.t.Context(), q.method, k.http.URL+q.target, bytes.NewReader(q.body))
	if err != nil {
		k.t.Fatal(err)
	}
	for name, value := range q.header {
		r.Header.Set(name, value)
	}
	return r
}

func (k *kit) sign(r *http.Request, at time.Time) {
	k.t.Helper()
	signed, err := sigv4.FromClient(r)
	if err != nil {
		k.t.Fatal(err)
	}
	sigv4.Sign(signed, sigv4.Credentials{AccessKey: accessKey, SecretKey: secretKey}, "us-east-1", at)
}

func (k *kit) send(r *http.Request) answer {
	k.t.Helper()
	res, err := k.http.Client().Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

// do signs and sends.
func (k *kit) do(q request) answer {
	k.t.Helper()
	r := k.build(q)
	k.sign(r, time.Now())
	return k.send(r)
}

// want checks status and error code ("" for none).
func (a answer) want(t *testing.T, status int, code string) answer {
	t.Helper()
	if a.status != status || code != "" && !strings.Contains(a.body, "<Code>"+code+"</Code>") {
		t.Errorf("status %d, body %.300q; want %d %s", a.status, a.body, status, code)
	}
	return a
}

func (k *kit) bucket(name string) {
	k.t.Helper()
	if _, err := k.store.CreateBucket(k.t.Context(), name, accessKey); err != nil {
		k.t.Fatal(err)
	}
}

// put stores an object and fails the test when it cannot.
func (k *kit) put(target, body string, header map[string]string) answer {
	k.t.Helper()
	return k.do(request{"PUT", target, header, []byte(body)}).want(k.t, 200, "")
}

// insecure trusts any certificate: the raw tests speak to a server made for them.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// sha is the value of x-amz-content-sha256 for a body.
func sha(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}
