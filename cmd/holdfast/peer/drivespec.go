package peer

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxDrives bounds the drives of one peer: more than a thousand directories are a mistyped pattern.
const maxDrives = 1024

// ErrConfig says that the configuration is wrong; nothing was touched.
var ErrConfig = errors.New("configuration")

var sequence = regexp.MustCompile(`\{(\d+)\.\.\.(\d+)\}`)

// ExpandDrives turns patterns such as "/mnt/d{1...12}" and comma-separated lists into absolute paths, in order. A
// number with leading zeros sets the width: {01...12} gives 01, 02 and so on.
func ExpandDrives(patterns []string) ([]string, error) {
	var paths []string
	for _, pattern := range patterns {
		for _, item := range strings.Split(pattern, ",") {
			expanded, err := expand(strings.TrimSpace(item))
			if err != nil {
				return nil, err
			}
			paths = append(paths, expanded...)
			if len(paths) > maxDrives {
				return nil, fmt.Errorf("%w: %s names more than %d drives", ErrConfig, pattern, maxDrives)
			}
		}
	}
	for i, p := range paths {
		absolute, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		if slices.Contains(paths[:i], absolute) {
			return nil, fmt.Errorf("%w: drive %s is named twice", ErrConfig, absolute)
		}
		paths[i] = absolute
	}
	return paths, nil
}

func expand(pattern string) ([]string, error) {
	if pattern == "" {
		return nil, fmt.Errorf("%w: an empty drive path", ErrConfig)
	}
	found := sequence.FindStringSubmatchIndex(pattern)
	if found == nil {
		if strings.ContainsAny(pattern, "{}") {
			return nil, fmt.Errorf("%w: %s: write a sequence as {1...12}", ErrConfig, pattern)
		}
		return []string{pattern}, nil
	}
	low, high := pattern[found[2]:found[3]], pattern[found[4]:found[5]]
	first, err := strconv.Atoi(low)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, pattern, err)
	}
	last, err := strconv.Atoi(high)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrConfig, pattern, err)
	}
	if first > last || last-first >= maxDrives {
		return nil, fmt.Errorf("%w: %s: %d to %d is no sequence of at most %d", ErrConfig, pattern, first, last, maxDrives)
	}
	width := 0
	if strings.HasPrefix(low, "0") && len(low) > 1 {
		width = len(low)
	}
	var all []string
	for n := first; n <= last; n++ {
		rest, err := expand(pattern[:found[0]] + fmt.Sprintf("%0*d", width, n) + pattern[found[1]:])
		if err != nil {
			return nil, err
		}
		all = append(all, rest...)
		if len(all) > maxDrives {
			return nil, fmt.Errorf("%w: %s names more than %d drives", ErrConfig, pattern, maxDrives)
		}
	}
	return all, nil
}
