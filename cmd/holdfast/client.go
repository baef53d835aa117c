package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
)

const (
	defaultEndpoint = "http://127.0.0.1:9000"
	defaultDir      = "./holdfast-data"
	// region is what requests are signed for; a gateway accepts any.
	region = "us-east-1"
	// connections bounds the idle connections kept to a gateway: more than the parallel transfers of one command.
	connections = 64
	// answerDeadline is how long a gateway may take to begin its answer. Completing a large upload and a check that
	// must ask every drive stay well below it.
	answerDeadline = 5 * time.Minute
)

// clientOptions say which gateway a client command talks to.
type clientOptions struct {
	endpoint string
	dir      string
	ca       string
}

func (o *clientOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.endpoint, "endpoint", defaultEndpoint, "`URL` of the gateway")
	flags.StringVar(&o.dir, "dir", defaultDir, "the server's data `directory`, where keys are looked for last")
	flags.StringVar(&o.ca, "ca", "", "PEM `file` of certificates to trust beside the system's")
	setting(flags, "endpoint", "dir", "ca")
}

func (o *clientOptions) transport() (*http.Transport, error) {
	target, err := url.Parse(o.endpoint)
	if err != nil || target.Host == "" || (target.Scheme != "http" && target.Scheme != "https") {
		return nil, usageError(fmt.Errorf("endpoint %q is not of the form http://host:port or https://host:port", o.endpoint))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = connections
	transport.ResponseHeaderTimeout = answerDeadline
	if o.ca == "" {
		return transport, nil
	}
	text, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, usageError(fmt.Errorf("--ca: %w", err))
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, usageError(fmt.Errorf("--ca: %s holds no certificate", o.ca))
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return transport, nil
}

// access finds the key that signs requests to the gateway, and what carries them.
func (s *session) access(o *clientOptions) (*peer.Credentials, *http.Transport, error) {
	key, err := s.config.clientKey(o.dir)
	if err != nil {
		return nil, nil, err
	}
	transport, err := o.transport()
	return key, transport, err
}

// s3Client makes the client of the object commands.
func (s *session) s3Client(o *clientOptions) (*s3.Client, error) {
	key, transport, err := s.access(o)
	if err != nil {
		return nil, err
	}
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(o.endpoint),
		Region:       region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(key.AccessKey, string(key.Secret), ""),
		HTTPClient:   &http.Client{Transport: transport},
		// Bodies carry a CRC32, so signing them too would only cost a SHA-256 more.
		APIOptions: []func(*middleware.Stack) error{v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware},
	}), nil
}

// adminClient makes the client of the commands that look after a cluster.
func (s *session) adminClient(o *clientOptions) (*admin.Client, error) {
	key, transport, err := s.access(o)
	if err != nil {
		return nil, err
	}
	keys := aws.Credentials{AccessKeyID: key.AccessKey, SecretAccessKey: string(key.Secret)}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	sign := func(r *http.Request) error {
		return signer.SignHTTP(r.Context(), keys, r, admin.EmptyPayload, "s3", region, time.Now())
	}
	return &admin.Client{Endpoint: o.endpoint, HTTP: &http.Client{Transport: transport}, Sign: sign}, nil
}

// s3Error turns an error of the SDK into a sentence and an exit code.
func s3Error(endpoint string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	var (
		api      apiError
		noBucket *types.NoSuchBucket
		noKey    *types.NoSuchKey
		notFound *types.NotFound
		network  *url.Error
	)
	switch {
	case errors.As(err, &noBucket):
		return &exitCode{exitNotFound, errors.New("no such bucket")}
	case errors.As(err, &noKey), errors.As(err, &notFound):
		return &exitCode{exitNotFound, errors.New("no such object")}
	case errors.As(err, &api):
		text := api.ErrorMessage()
		if text == "" {
			text = "the gateway refused"
		}
		err := fmt.Errorf("%s (%s)", strings.TrimSuffix(text, "."), api.ErrorCode())
		switch api.ErrorCode() {
		case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "Forbidden":
			return &exitCode{exitRefused, err}
		case "NoSuchBucket", "NoSuchKey", "NotFound", "NoSuchVersion":
			return &exitCode{exitNotFound, err}
		}
		return err
	case errors.As(err, &network):
		return fmt.Errorf("%w at %s: %w", admin.ErrUnreachable, endpoint, network.Err)
	}
	return err
}

// apiError is what every error answer of the SDK has.
type apiError interface {
	error
	ErrorCode() string
	ErrorMessage() string
}
