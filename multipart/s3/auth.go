package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

// Principal is who sent a request, as its signature proves.
type Principal struct {
	AccessKey string
	Name      string // for people; "" is shown as the access key
	Root      bool   // may do everything, the operator's paths included
}

// Keys looks an access key up: its secret and whom it stands for. ErrNoSuchAccessKey says that there is none; any
// other error refuses the request as the server's fault.
type Keys func(ctx context.Context, accessKey string) (secret string, who Principal, err error)

// principalKey is the context key of the Principal.
type principalKey struct{}

// PrincipalFrom returns who sent the request that ctx belongs to. The second result is false outside of handlers that
// run behind authentication.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	who, ok := ctx.Value(principalKey{}).(Principal)
	return who, ok
}

// verified is a request whose signature was proved.
type verified struct {
	request *sigv4.Request
	who     Principal
	body    *body
}

// authenticate is the one door: every request but those to open reserved paths passes it before anything is routed.
// It decides from the request's bytes alone who sent it and how its body is verified.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, request *sigv4.Request) (*verified, error) {
	if lines := countHeaders(r.Header); lines > maxHeaders {
		return nil, Code("RequestHeaderSectionTooLarge")
	}
	claim, err := sigv4.Parse(request)
	if err != nil {
		return nil, err
	}
	secret, who, err := s.config.Keys(r.Context(), claim.AccessKey)
	if err != nil {
		return nil, fmt.Errorf("look up the access key: %w", err)
	}
	if secret == "" {
		// An empty secret would let anyone sign; such a row must never be served.
		return nil, errors.New("the access key has no secret")
	}
	chain, err := claim.VerifyKey(request, s.signingKeys.of(claim, secret), s.config.Now())
	if err != nil {
		return nil, err
	}
	if request.Header.Get("X-Amz-Security-Token") != "" || request.Query.Has("X-Amz-Security-Token") {
		return nil, Code("InvalidToken") // no temporary credentials are issued
	}
	if claim.Presigned {
		if err := hoist(request.Query, r.Header); err != nil {
			return nil, err
		}
	}
	body, err := openBody(w, r, claim, chain)
	if err != nil {
		return nil, err
	}
	return &verified{request: request, who: who, body: body}, nil
}

func countHeaders(h http.Header) int {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n
}
