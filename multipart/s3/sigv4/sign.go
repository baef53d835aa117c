package sigv4

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Credentials are an access key and its secret.
type Credentials struct{ AccessKey, SecretKey string }

// String keeps secrets out of whatever prints it.
func (c Credentials) String() string { return "credentials of " + c.AccessKey }

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

// Sign signs r for the given region and sets X-Amz-Date, X-Amz-Content-Sha256 (Unsigned unless it is there already) and
// Authorization in r.Header. Nothing that is signed may change afterwards: host, content-*, range, if-* and x-*.
func Sign(r *Request, c Credentials, region string, at time.Time) {
	r.Header.Set(headerDate, at.UTC().Format(timeFormat))
	if r.Header.Get(headerPayload) == "" {
		r.Header.Set(headerPayload, Unsigned)
	}
	sc := scope{at.UTC().Format(dateFormat), region, service}
	signed := signedHeaders(r.Header)
	signature := r.sign(sc.key(c.SecretKey), at, sc, signed, r.Header.Get(headerPayload))
	r.Header.Set("Authorization", algorithm+" Credential="+c.AccessKey+"/"+sc.String()+
		", SignedHeaders="+strings.Join(signed, ";")+", Signature="+signature)
}

// Presign returns the raw query that makes r valid for anyone who has it, from at until at + expires (1 s to
// MaxExpires). Only the host and the x-* headers that r carries are signed.
func Presign(r *Request, c Credentials, region string, at time.Time, expires time.Duration) string {
	sc := scope{at.UTC().Format(dateFormat), region, service}
	signed := slices.DeleteFunc(signedHeaders(r.Header), func(name string) bool {
		return name != "host" && !strings.HasPrefix(name, "x-")
	})
	presigned := *r
	presigned.Query = append(slices.Clone(r.Query),
		Param{paramAlgorithm, algorithm},
		Param{paramCredential, c.AccessKey + "/" + sc.String()},
		Param{paramDate, at.UTC().Format(timeFormat)},
		Param{paramExpires, strconv.FormatInt(int64(expires/time.Second), 10)},
		Param{paramSignedHeaders, strings.Join(signed, ";")},
	)
	payload := Unsigned
	if v := r.Header.Get(headerPayload); v != "" {
		payload = v
	}
	signature := presigned.sign(sc.key(c.SecretKey), at, sc, signed, payload)
	return presigned.Query.canonical() + "&" + paramSignature + "=" + signature
}

// signedHeaders lists what Sign covers, sorted: headers that say something of the object and that no proxy rewrites.
func signedHeaders(h http.Header) []string {
	signed := []string{"host"}
	for name := range h {
		lower := strings.ToLower(name)
		switch {
		case lower == "content-length": // net/http writes its own
		case strings.HasPrefix(lower, "content-"), strings.HasPrefix(lower, "if-"), strings.HasPrefix(lower, "x-"), lower == "range":
			signed = append(signed, lower)
		}
	}
	slices.Sort(signed)
	return signed
}
