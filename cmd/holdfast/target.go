package main

import (
	"fmt"
	"strings"
)

// place is an argument of cp, ls, cat and rm: a local path, or a bucket with a key or prefix.
type place struct {
	local  bool
	path   string // of a local place
	bucket string
	key    string // "" for the whole bucket
}

func (p place) String() string {
	if p.local {
		return p.path
	}
	return "hf://" + p.bucket + "/" + p.key
}

const scheme = "hf://"

// parsePlace decides by spelling alone, so a command means the same wherever it runs: hf://BUCKET/KEY is remote; a
// path that begins with /, ./ or ../ is local, and so is a word without a slash; anything else is BUCKET/KEY.
func parsePlace(text string) (place, error) {
	if rest, ok := strings.CutPrefix(text, scheme); ok {
		return parseRemote(rest)
	}
	switch {
	case text == "":
		return place{}, usageError(fmt.Errorf("an empty argument names nothing"))
	case text[0] == '/', strings.HasPrefix(text, "./"), strings.HasPrefix(text, "../"), !strings.Contains(text, "/"):
		return place{local: true, path: text}, nil
	}
	return parseRemote(text)
}

// parseRemote reads BUCKET, BUCKET/ or BUCKET/KEY, with or without hf:// before it.
func parseRemote(text string) (place, error) {
	text = strings.TrimPrefix(text, scheme)
	bucket, key, _ := strings.Cut(text, "/")
	if bucket == "" {
		return place{}, usageError(fmt.Errorf("%q names no bucket; write BUCKET/KEY", text))
	}
	return place{bucket: bucket, key: key}, nil
}
