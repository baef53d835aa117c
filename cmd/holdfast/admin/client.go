package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// EmptyPayload is the SHA-256 of no bytes: every request of this API has an empty body.
const EmptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// maxAnswer bounds what a client reads of one answer, in bytes; a status of thousands of drives is far below it.
const maxAnswer = 64 << 20

// Errors of the client.
var (
	// ErrUnreachable says that nobody answered at the endpoint.
	ErrUnreachable = errors.New("cannot reach the gateway")
	// ErrRefused says that the gateway refused the access key.
	ErrRefused = errors.New("the gateway refused the request")
	// ErrNotFound says that there is no such peer or drive.
	ErrNotFound = errors.New("not found")
)

// Client asks one gateway. All fields must be set.
type Client struct {
	Endpoint string // http://host:port
	HTTP     *http.Client
	// Sign signs a request without a body (SigV4, service s3).
	Sign func(*http.Request) error
}

// Status asks for the state of the peer.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.get(ctx, "status", &s)
}

// Drives asks for the drives.
func (c *Client) Drives(ctx context.Context) ([]Drive, error) {
	var d []Drive
	return d, c.get(ctx, "drives", &d)
}

// Volumes asks for the volume rows.
func (c *Client) Volumes(ctx context.Context) ([]Volume, error) {
	var v []Volume
	return v, c.get(ctx, "volumes", &v)
}

// Token asks for a join token.
func (c *Client) Token(ctx context.Context, life time.Duration) (*Token, error) {
	path := "token"
	if life > 0 {
		path += "?life=" + life.String()
	}
	var t Token
	return &t, c.ask(ctx, http.MethodPost, path, &t)
}

// ActOnPeer does something to a peer.
func (c *Client) ActOnPeer(ctx context.Context, peer, action string, force bool) (*Done, error) {
	return c.act(ctx, "peer", peer, action, force)
}

// ActOnDrive does something to a drive.
func (c *Client) ActOnDrive(ctx context.Context, drive, action string, force bool) (*Done, error) {
	return c.act(ctx, "drive", drive, action, force)
}

// AddDrive makes a drive of a blank directory of the peer that is asked.
func (c *Client) AddDrive(ctx context.Context, path string) (*Done, error) {
	var d Done
	return &d, c.ask(ctx, http.MethodPost, "drives?"+url.Values{"path": {path}}.Encode(), &d)
}

// Set changes settings of the cluster.
func (c *Client) Set(ctx context.Context, settings Settings) (*Done, error) {
	q := url.Values{}
	for name, n := range map[string]*int{votersQuery: settings.Voters, rootVotersQuery: settings.RootVoters} {
		if n != nil {
			q.Set(name, strconv.Itoa(*n))
		}
	}
	var d Done
	return &d, c.ask(ctx, http.MethodPost, "settings?"+q.Encode(), &d)
}

func (c *Client) act(ctx context.Context, what, name, action string, force bool) (*Done, error) {
	q := url.Values{what: {name}, "do": {action}}
	if force {
		q.Set("force", "true")
	}
	var d Done
	return &d, c.ask(ctx, http.MethodPost, what+"?"+q.Encode(), &d)
}

// Fsck runs a check and hands each event to see as it comes. It returns the report.
func (c *Client) Fsck(ctx context.Context, deep bool, see func(FsckEvent)) (*FsckReport, error) {
	path := "fsck"
	if deep {
		path += "?deep=true"
	}
	response, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	report, err := readEvents(response.Body, see)
	return report, errors.Join(err, response.Body.Close())
}

func readEvents(r io.Reader, see func(FsckEvent)) (*FsckReport, error) {
	decoder := json.NewDecoder(bufio.NewReader(r))
	for {
		var event FsckEvent
		if err := decoder.Decode(&event); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("the check broke off: %w", err)
		}
		switch {
		case event.Error != "":
			return nil, errors.New(event.Error)
		case event.Report != nil:
			return event.Report, nil
		default:
			see(event)
		}
	}
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.ask(ctx, http.MethodGet, path, into)
}

func (c *Client) ask(ctx context.Context, method, path string, into any) error {
	response, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	err = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(into)
	if err != nil {
		err = fmt.Errorf("read the answer to %s: %w", path, err)
	}
	return errors.Join(err, response.Body.Close())
}

// do sends one signed request and returns its answer when it is a 200.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	target, err := url.Parse(strings.TrimSuffix(c.Endpoint, "/") + Prefix + path)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", c.Endpoint, err)
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Amz-Content-Sha256", EmptyPayload)
	if err := c.Sign(request); err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.Endpoint, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	// Enough for an error answer of S3.
	body, readErr := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	err = answerError(response.StatusCode, string(body))
	return nil, errors.Join(err, readErr, response.Body.Close())
}

func answerError(status int, body string) error {
	text := strings.TrimSpace(body)
	for _, tag := range []string{"Message", "Code"} {
		if _, after, found := strings.Cut(text, "<"+tag+">"); found {
			text, _, _ = strings.Cut(after, "</"+tag+">")
			break
		}
	}
	if text == "" {
		text = http.StatusText(status)
	}
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrRefused, text)
	case http.StatusNotFound:
		return notFound(text)
	case http.StatusConflict:
		return Declined(errors.New(text))
	}
	return fmt.Errorf("the gateway answered %d: %s", status, text)
}

// notFound is an ErrNotFound in the gateway's words.
type notFound string

func (n notFound) Error() string        { return string(n) }
func (n notFound) Is(target error) bool { return target == ErrNotFound }
