package sigv4

import (
	"crypto/hmac"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxSkew is how far the date of a request may be from the server's clock: S3's 15 minutes.
	MaxSkew = 15 * time.Minute
	// MaxExpires is the longest life of a presigned request: S3's 7 days.
	MaxExpires = 604_800 * time.Second
	// maxAccessKey bounds what is looked up; S3's own access keys have at most 128 characters.
	maxAccessKey = 128
)

// Claim is what a request says of who signed it. It is proved by Verify and by nothing else.
type Claim struct {
	AccessKey string
	Presigned bool
	// Payload is the value of x-amz-content-sha256, Unsigned for a presigned request without one.
	Payload string

	scope     scope
	at        time.Time
	expires   time.Duration // of presigned requests
	signed    []string
	signature string
}

// Parse reads the claim of a request and refuses every form but Signature Version 4 of S3. It proves nothing.
func Parse(r *Request) (*Claim, error) {
	header := r.Header.Values("Authorization")
	query := slices.ContainsFunc(r.Query, func(p Param) bool {
		return p.Name == paramAlgorithm || p.Name == paramCredential || p.Name == paramSignature || p.Name == paramSignedHeaders
	})
	version2 := r.Query.Has("AWSAccessKeyId") || r.Query.Has("Signature") && r.Query.Has("Expires")
	switch {
	case len(header) > 0 && (query || version2): // an empty header too
		return nil, ErrBothAuth
	case len(header) > 1:
		return nil, fmt.Errorf("%d authorization headers: %w", len(header), ErrHeaderMalformed)
	case len(header) == 1 && header[0] != "":
		return parseHeader(r, header[0])
	case query:
		return parseQuery(r)
	case version2:
		return nil, ErrSigV2
	}
	return nil, ErrAnonymous
}

func parseHeader(r *Request, value string) (*Claim, error) {
	scheme, rest, _ := strings.Cut(value, " ")
	switch scheme {
	case algorithm:
	case "AWS":
		return nil, ErrSigV2
	case "AWS4-ECDSA-P256-SHA256":
		return nil, ErrAsymmetric
	default:
		return nil, ErrScheme
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, v, found := strings.Cut(strings.TrimSpace(field), "=")
		if _, twice := fields[name]; twice || !found {
			return nil, ErrHeaderMalformed
		}
		fields[name] = v
	}
	if len(fields) != 3 {
		return nil, ErrHeaderMalformed
	}
	c := &Claim{signature: fields["Signature"]}
	var err error
	if c.at, err = headerTime(r.Header); err != nil {
		return nil, err
	}
	if err := c.parseFields(fields["Credential"], fields["SignedHeaders"]); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrHeaderMalformed)
	}
	switch payloads := r.Header.Values(headerPayload); {
	case len(payloads) == 0:
		return nil, ErrNoPayload
	case len(payloads) > 1:
		return nil, ErrPayload
	default:
		c.Payload = payloads[0]
	}
	return c, checkPayload(c.Payload)
}

// headerTime reads x-amz-date or, without one, Date.
func headerTime(h http.Header) (time.Time, error) {
	if values := h.Values(headerDate); len(values) > 0 {
		at, err := time.Parse(timeFormat, values[0])
		if err != nil || len(values) > 1 {
			return time.Time{}, ErrNoDate
		}
		return at, nil
	}
	value := h.Get("Date")
	if at, err := time.Parse(timeFormat, value); err == nil {
		return at, nil
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return time.Time{}, ErrNoDate
	}
	return at, nil
}

func parseQuery(r *Request) (*Claim, error) {
	for _, name := range []string{paramAlgorithm, paramCredential, paramDate, paramExpires, paramSignedHeaders, paramSignature} {
		if n := r.Query.count(name); n != 1 {
			return nil, fmt.Errorf("query has %d of %s: %w", n, name, ErrQueryMalformed)
		}
	}
	switch r.Query.Get(paramAlgorithm) {
	case algorithm:
	case "AWS4-ECDSA-P256-SHA256":
		return nil, ErrAsymmetric
	default:
		return nil, fmt.Errorf("unknown %s: %w", paramAlgorithm, ErrQueryMalformed)
	}
	c := &Claim{Presigned: true, signature: r.Query.Get(paramSignature), Payload: Unsigned}
	at, err := time.Parse(timeFormat, r.Query.Get(paramDate))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", paramDate, ErrQueryMalformed)
	}
	c.at = at
	seconds, err := strconv.ParseInt(r.Query.Get(paramExpires), 10, 64)
	if err != nil || seconds < 1 || seconds > int64(MaxExpires/time.Second) {
		return nil, fmt.Errorf("%s must be 1..604800 seconds: %w", paramExpires, ErrQueryMalformed)
	}
	c.expires = time.Duration(seconds) * time.Second
	if err := c.parseFields(r.Query.Get(paramCredential), r.Query.Get(paramSignedHeaders)); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrQueryMalformed)
	}
	switch payloads := r.Header.Values(headerPayload); {
	case len(payloads) > 1 || len(payloads) == 1 && r.Query.Has(paramPayload) || r.Query.count(paramPayload) > 1:
		return nil, ErrPayload
	case len(payloads) == 1:
		c.Payload = payloads[0]
	case r.Query.Has(paramPayload):
		c.Payload = r.Query.Get(paramPayload)
	}
	return c, checkPayload(c.Payload)
}

// parseFields reads a credential, "key/date/region/s3/aws4_request", and the list of signed headers. An access key may
// hold slashes, so the scope is taken from the end.
func (c *Claim) parseFields(credential, signed string) error {
	parts := strings.Split(credential, "/")
	if len(parts) < 5 {
		return fmt.Errorf("credential has fewer than five parts")
	}
	tail := parts[len(parts)-4:]
	c.AccessKey = strings.Join(parts[:len(parts)-4], "/")
	c.scope = scope{date: tail[0], region: tail[1], service: tail[2]}
	switch {
	case c.AccessKey == "" || len(c.AccessKey) > maxAccessKey:
		return fmt.Errorf("access key is empty or longer than %d bytes", maxAccessKey)
	case tail[3] != terminator:
		return fmt.Errorf("scope does not end in %s", terminator)
	case c.scope.service != service:
		return fmt.Errorf("service is not s3")
	case c.scope.region == "":
		return fmt.Errorf("region is empty")
	case c.scope.date != c.at.UTC().Format(dateFormat):
		return fmt.Errorf("date of the scope is not the request's")
	}
	c.signed = strings.Split(signed, ";")
	for i, name := range c.signed {
		if name == "" || strings.ToLower(name) != name || i > 0 && c.signed[i-1] >= name {
			return fmt.Errorf("signed headers are not sorted lower-case names")
		}
	}
	return nil
}

func checkPayload(payload string) error {
	switch payload {
	case Unsigned, StreamingSigned, StreamingSignedTrailer, StreamingUnsignedTrailer:
		return nil
	case "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER":
		return ErrAsymmetric
	}
	if sum, err := hex.DecodeString(payload); err != nil || len(sum) != 32 || strings.ToLower(payload) != payload {
		return ErrPayload
	}
	return nil
}

// Verify proves the claim with the secret of its access key: the time, that everything which must be signed is, and
// the signature. The Chain that it returns carries on to the chunks of the body. Comparing takes the same time
// whatever the difference.
func (c *Claim) Verify(r *Request, secret string, now time.Time) (*Chain, error) {
	return c.VerifyKey(r, c.Key(secret), now)
}

// Scope is what the claim's signing key is good for: day, region and service.
func (c *Claim) Scope() string { return c.scope.String() }

// Key makes the signing key of the claim's scope from the secret of its access key.
func (c *Claim) Key(secret string) []byte { return c.scope.key(secret) }

// VerifyKey is Verify with what Key returned for this scope before.
func (c *Claim) VerifyKey(r *Request, key []byte, now time.Time) (*Chain, error) {
	switch {
	case c.Presigned && c.at.After(now.Add(MaxSkew)):
		return nil, ErrNotYet
	case c.Presigned && now.After(c.at.Add(c.expires)):
		return nil, ErrExpired
	case !c.Presigned && now.Sub(c.at).Abs() > MaxSkew:
		return nil, ErrSkew
	}
	if err := c.covers(r); err != nil {
		return nil, err
	}
	want := r.sign(key, c.at, c.scope, c.signed, c.Payload)
	if !hmac.Equal([]byte(want), []byte(c.signature)) {
		return nil, ErrSignature
	}
	return &Chain{key: key, at: c.at, scope: c.scope, previous: want}, nil
}

// covers checks that the host and all x-amz-* and x-csp-* headers are signed, so that nobody between the client and
// here can add one.
func (c *Claim) covers(r *Request) error {
	if _, signed := slices.BinarySearch(c.signed, "host"); !signed {
		return fmt.Errorf("host: %w", ErrUnsignedHeader)
	}
	for name := range r.Header {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "x-amz-") && !strings.HasPrefix(lower, "x-csp-") {
			continue
		}
		if _, signed := slices.BinarySearch(c.signed, lower); !signed {
			return fmt.Errorf("%s: %w", lower, ErrUnsignedHeader)
		}
	}
	return nil
}
