package s3

import (
	"net/http"
	"strings"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// verdict is what conditional headers say.
type verdict uint8

const (
	proceed     verdict = iota
	notModified         // 304 for reads, 412 for copies
	failed              // 412
)

// conditions are the four conditional headers of a read, or of a copy's source.
type conditions struct {
	match, noneMatch     string
	modified, unmodified string // If-Modified-Since, If-Unmodified-Since
}

// readConditions takes them from headers that begin with prefix ("" or "X-Amz-Copy-Source-").
func readConditions(h http.Header, prefix string) conditions {
	return conditions{
		match: h.Get(prefix + "If-Match"), noneMatch: h.Get(prefix + "If-None-Match"),
		modified: h.Get(prefix + "If-Modified-Since"), unmodified: h.Get(prefix + "If-Unmodified-Since"),
	}
}

// decide applies S3's precedence: an ETag condition that holds overrides its sibling on time, and what must hold is
// looked at before what must not. Times count in whole seconds, dates that cannot be read ask nothing.
func (c conditions) decide(v metadata.Version) verdict {
	modified := v.Modified.Truncate(time.Second)
	switch since, err := http.ParseTime(c.unmodified); {
	case c.match != "":
		if !matches(c.match, v.ETag) {
			return failed
		}
	case err == nil && modified.After(since):
		return failed
	}
	switch since, err := http.ParseTime(c.modified); {
	case c.noneMatch != "":
		if matches(c.noneMatch, v.ETag) {
			return notModified
		}
	case err == nil && !modified.After(since):
		return notModified
	}
	return proceed
}

// matches tells whether a list of ETags holds one, "*" being all.
func matches(list, etag string) bool {
	for candidate := range strings.SplitSeq(list, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == "*" || unquote(candidate) == etag {
			return true
		}
	}
	return false
}

// writeConditions reads the conditions of a write, which are decided where the version is committed.
func (c *call) writeConditions() (metadata.If, error) {
	match, noneMatch := c.header("If-Match"), c.header("If-None-Match")
	if match != "" && noneMatch != "" || strings.Contains(match, ",") || strings.Contains(noneMatch, ",") {
		return metadata.If{}, Code("NotImplemented")
	}
	return metadata.If{Match: unquote(match), NoneMatch: unquote(noneMatch)}, nil
}
