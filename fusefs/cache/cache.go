// Package cache answers lookups of a mount from memory as long as it is certain that nothing has changed.
//
// Certain is what the gateway's mark says: a number that is another one after every commit, and that can be read without
// asking the gateway. Whatever was learned while the mark stood at one value is true until it stands at another, and only
// beside the page that the mark is read from: another gateway, or the same one after a restart, has another page. One's
// own commits move it too. A publish that moved it by exactly one was the only change, so what is known stays known, but
// for the name that was published; after any other change everything is forgotten.
//
// Of a directory that was made here all names are known: it was empty, and what was added is remembered. So a tree that
// is copied into a mount costs one request for each file, the publish, and a file that is looked at again costs none.
package cache

import (
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/fusefs/tree"
)

const (
	// maxLooks, maxXattrs and maxNames bound what is remembered: 16 Ki answers of some 500 bytes, or 1.5 KiB with
	// extended attributes, and 128 Ki names.
	maxLooks  = 16 << 10
	maxXattrs = 1 << 10
	maxNames  = 128 << 10
)

// Objects are a bucket whose lookups are remembered. It implements tree.Objects and tree.Looker.
type Objects struct {
	tree.Objects
	looker tree.Looker
	source Mark

	mu sync.Mutex
	// at is the mark at which everything below was true.
	at    mark
	known bool // at has a meaning
	// looks are answers by key; full are the names in directories of which all are known, by prefix.
	looks map[string]tree.Found
	full  map[string]map[string]bool
	names int // in full
	// running counts the changes made here that are under way, all of one burst.
	running int
	burst   burst
	hits    uint64
}

// Bucket is what is asked.
type Bucket interface {
	tree.Objects
	tree.Looker
}

// Mark reads a number that every commit makes larger, by one in most cases, after it can be seen and before it is
// acknowledged. Page names where the number stands: numbers of different pages say nothing of each other. Not trusted
// while the number may be behind. It must not block.
type Mark func() (page, index uint64, trusted bool)

// mark is what a Mark said.
type mark struct{ page, index uint64 }

// New remembers what bucket answers.
func New(bucket Bucket, source Mark) *Objects {
	o := &Objects{Objects: bucket, looker: bucket, source: source}
	o.forgetLocked()
	return o
}

// now is the mark as it stands.
func (o *Objects) now() (at mark, trusted bool) {
	at.page, at.index, trusted = o.source()
	return at, trusted
}

// Hits is how many lookups were answered from memory.
func (o *Objects) Hits() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hits
}

// forgetLocked forgets everything.
func (o *Objects) forgetLocked() {
	o.known, o.names = false, 0
	o.looks, o.full = map[string]tree.Found{}, map[string]map[string]bool{}
}

// syncLocked forgets what is not certain at this mark.
func (o *Objects) syncLocked(at mark, trusted bool) {
	if o.known && trusted && at == o.at {
		return
	}
	if o.known {
		o.forgetLocked()
	}
	o.at, o.known = at, trusted
}

// Look implements tree.Looker.
func (o *Objects) Look(ctx context.Context, key string) (tree.Found, error) {
	// The mark comes first: what the gateway answers later is at least as new.
	at, trusted := o.now()
	o.mu.Lock()
	if o.running == 0 {
		o.syncLocked(at, trusted)
	}
	// While a change of one's own is under way the mark may be ahead by it: the change's end will tell.
	if o.known && trusted && o.at == at {
		if found, ok := o.rememberedLocked(key); ok {
			o.hits++
			o.mu.Unlock()
			return found, nil
		}
	}
	o.mu.Unlock()
	found, err := o.looker.Look(ctx, key)
	if err != nil {
		return found, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// It may be newer than the mark. Then the mark has moved, or does when the publish that the answer crossed ends.
	if o.known && trusted && o.at == at && xattrs(found.File)+xattrs(found.Marker) <= maxXattrs {
		if len(o.looks) >= maxLooks {
			clear(o.looks)
		}
		o.looks[key] = copied(found)
	}
	return found, nil
}

// rememberedLocked is what is known of a key.
func (o *Objects) rememberedLocked(key string) (tree.Found, bool) {
	if found, ok := o.looks[key]; ok {
		return copied(found), true
	}
	if !plain(key) {
		return tree.Found{}, false
	}
	dir, name := split(key)
	if names, ok := o.full[dir]; ok && !names[name] {
		return tree.Found{}, true
	}
	return tree.Found{}, false
}

// xattrs is how many bytes the extended attributes of an object take.
func xattrs(info *tree.Info) int {
	if info == nil {
		return 0
	}
	n := 0
	for name, value := range info.Attr.Xattrs {
		n += len(name) + len(value)
	}
	return n
}

// plain tells whether a key is a path of names.
func plain(key string) bool {
	return key != "" && key[0] != '/' && key[len(key)-1] != '/' && !strings.Contains(key, "//")
}

// copied is found with structures of its own: the caller may change them.
func copied(found tree.Found) tree.Found {
	found.File, found.Marker = copiedInfo(found.File), copiedInfo(found.Marker)
	return found
}

func copiedInfo(info *tree.Info) *tree.Info {
	if info == nil {
		return nil
	}
	other := *info
	other.Attr.Xattrs = maps.Clone(info.Attr.Xattrs)
	return &other
}

// split is the prefix of the directory that a plain key lies in, and its name there.
func split(key string) (dir, name string) {
	i := strings.LastIndexByte(key, '/')
	return key[:i+1], key[i+1:]
}
