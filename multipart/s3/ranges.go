package s3

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/multipart"
)

// parseRange reads a Range header for an object of size bytes: "bytes=a-b", "bytes=a-" or "bytes=-n". Ends beyond the
// object are cut. Headers that are no single byte range are ignored, as HTTP says: ranged is false then. A range that
// holds no byte of the object is InvalidRange.
func parseRange(header string, size int64) (span multipart.Span, ranged bool, err error) {
	spec, isBytes := strings.CutPrefix(strings.TrimSpace(header), "bytes=")
	first, last, isRange := strings.Cut(strings.TrimSpace(spec), "-")
	if !isBytes || !isRange || strings.Contains(spec, ",") {
		return multipart.Span{Len: size}, false, nil
	}
	if first == "" {
		n, ok := parseOffset(last)
		switch {
		case !ok:
			return multipart.Span{Len: size}, false, nil
		case n == 0 || size == 0:
			return multipart.Span{}, false, Code("InvalidRange")
		}
		n = min(n, size)
		return multipart.Span{Off: size - n, Len: n}, true, nil
	}
	from, ok := parseOffset(first)
	to := size - 1
	if ok && last != "" {
		to, ok = parseOffset(last)
	}
	switch {
	case !ok || last != "" && to < from:
		return multipart.Span{Len: size}, false, nil
	case from >= size:
		return multipart.Span{}, false, Code("InvalidRange")
	}
	return multipart.Span{Off: from, Len: min(to, size-1) - from + 1}, true, nil
}

// parseOffset reads decimal digits; numbers beyond an int64 count as its largest.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// parseCopyRange reads x-amz-copy-source-range, which must be "bytes=a-b" with both ends.
func parseCopyRange(header string) (multipart.Span, error) {
	spec, isBytes := strings.CutPrefix(header, "bytes=")
	first, last, isRange := strings.Cut(spec, "-")
	from, ok1 := parseOffset(first)
	to, ok2 := parseOffset(last)
	if !isBytes || !isRange || !ok1 || !ok2 || to < from || to == 1<<63-1 {
		return multipart.Span{}, Code("InvalidArgument").because("The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy.")
	}
	return multipart.Span{Off: from, Len: to - from + 1}, nil
}

func contentRange(span multipart.Span, size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", span.Off, span.Off+span.Len-1, size)
}
