package main

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// parsed is what a command line of mount comes to, before it is run.
func parsed(t *testing.T, args ...string) (*mountOptions, error) {
	t.Helper()
	o := &mountOptions{}
	cmd := &cobra.Command{Use: "mount", RunE: func(*cobra.Command, []string) error { return o.absorb() }, SilenceErrors: true, SilenceUsage: true}
	o.client.bind(cmd)
	several(cmd.Flags().Lookup("endpoint"))
	cmd.Flags().StringSliceVarP(&o.options, "options", "o", nil, "")
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	_, err := o.gateways()
	return o, err
}

func TestMountTakesSeveralEndpoints(t *testing.T) {
	const a, b, c = "http://a:1", "http://b:2", "http://c:3"
	for _, test := range []struct {
		args, want []string
		rest       []string
	}{
		{nil, []string{defaultEndpoint}, nil},
		{[]string{"--endpoint", a}, []string{a}, nil},
		{[]string{"--endpoint", a, "--endpoint", b}, []string{a, b}, nil},
		{[]string{"--endpoint", a + "," + b, "--endpoint=" + c}, []string{a, b, c}, nil},
		{[]string{"--endpoint", a + ", " + b + ","}, []string{a, b}, nil},
		{[]string{"-o", "endpoint=" + a}, []string{a}, nil},
		{[]string{"-o", "ro,endpoint=" + a + ",endpoint=" + b + ",noatime"}, []string{a, b}, []string{"noatime"}},
		{[]string{"-o", "endpoint=" + a + "," + b + ",ro"}, []string{a, b}, nil},
		{[]string{"--endpoint", c, "-o", "endpoint=" + a, "-o", "endpoint=" + b}, []string{a, b}, nil},
	} {
		o, err := parsed(t, test.args...)
		if err != nil {
			t.Errorf("%q: %v", test.args, err)
			continue
		}
		if got, _ := o.gateways(); !slices.Equal(got, test.want) || !slices.Equal(o.options, test.rest) {
			t.Errorf("%q: endpoints %q, want %q; options %q, want %q", test.args, got, test.want, o.options, test.rest)
		}
		// A child gets them as one flag.
		again, err := parsed(t, "--endpoint="+o.client.endpoint)
		if got, _ := again.gateways(); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%q: a child has %q, %v", test.args, got, err)
		}
	}
	for _, wrong := range [][]string{{"--endpoint", a + ",https://b:2"}, {"--endpoint", ""}, {"--endpoint", ","}} {
		_, err := parsed(t, wrong...)
		var code *exitCode
		if !errors.As(err, &code) || code.code != exitUsage {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// A mount starts while the first gateway that it was told of is down, and says so when all are.
func TestMountFindsAGatewayThatIsUp(t *testing.T) {
	w := up(t)
	w.do("bucket", "create", "photos")
	const nobody = "http://127.0.0.1:1"
	o := &mountOptions{}
	o.client = clientOptions{endpoint: nobody + "," + w.env["HOLDFAST_ENDPOINT"], dir: w.dir}
	s := &session{config: configuration{lookup: w.lookup}}
	if err := s.needBucket(t.Context(), o, "photos"); err != nil {
		t.Errorf("with one gateway of two: %v", err)
	}
	var code *exitCode
	if err := s.needBucket(t.Context(), o, "none"); !errors.As(err, &code) || code.code != exitNotFound {
		t.Errorf("a bucket that is not there: %v", err)
	}
	client, err := s.mountClient(t.Context(), o, place{bucket: "photos"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := closeClient(t.Context(), client); err != nil {
		t.Error(err)
	}
	o.client.endpoint = nobody + ",http://127.0.0.1:2"
	if err := s.needBucket(t.Context(), o, "photos"); err == nil || !strings.Contains(err.Error(), ":1") || !strings.Contains(err.Error(), ":2") {
		t.Errorf("without any gateway: %v", err)
	}
}

// A gateway with TLS speaks HTTP/2 to whoever wants it; a mount does not.
func TestAMountSpeaksHTTP1(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := (&clientOptions{endpoint: server.URL}).transport()
	if err != nil {
		t.Fatal(err)
	}
	trusting, err := (&clientOptions{endpoint: server.URL, ca: ca}).transport()
	if err != nil {
		t.Fatal(err)
	}
	if plain.TLSClientConfig == nil {
		plain.TLSClientConfig = &tls.Config{}
	}
	plain.TLSClientConfig.RootCAs = trusting.TLSClientConfig.RootCAs // as if the system trusted it
	for name, transport := range map[string]*http.Transport{"system": plain, "--ca": trusting} {
		onlyHTTP1(transport)
		res, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := res.Body.Close(); err != nil || res.ProtoMajor != 1 {
			t.Errorf("%s: %s, %v", name, res.Proto, err)
		}
		transport.CloseIdleConnections()
	}
}
