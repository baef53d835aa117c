package cache

import (
	"context"
	"strings"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// maxBurst bounds the publishes that are remembered while others run beside them.
const maxBurst = 1024

// burst is changes made here that overlap, from the beginning of the first to the end of the last.
type burst struct {
	at mark // at its beginning
	// certain tells that what is known was, and that nothing but publishes that succeeded was in it so far.
	certain bool
	keys    []string // published
}

// begin notes a change before it is sent.
func (o *Objects) begin() {
	at, trusted := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running == 0 {
		o.syncLocked(at, trusted)
		o.burst = burst{at: at, certain: o.known, keys: o.burst.keys[:0]}
	}
	o.running++
}

// end notes that a change was answered. Published is the key of a publish that succeeded, "" for every other change,
// which may have changed anything even when it failed.
//
// Each publish made a commit at least, between the marks before it was sent and after it was answered. When the mark
// moved by as much as there were publishes, these were all that happened: what is known stays known.
func (o *Objects) end(published string) {
	at, trusted := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running--
	b := &o.burst
	if published == "" || len(b.keys) >= maxBurst {
		b.certain = false
	} else {
		b.keys = append(b.keys, published)
	}
	if o.running > 0 {
		return
	}
	if !b.certain || !trusted || at != (mark{b.at.page, b.at.index + uint64(len(b.keys))}) {
		o.forgetLocked()
		return
	}
	o.at = at
	for _, key := range b.keys {
		o.publishedLocked(key)
	}
}

// publishedLocked notes that a key has a new version. The next lookup asks for it: the gateway knows best what it looks
// like.
func (o *Objects) publishedLocked(key string) {
	name := strings.TrimSuffix(key, "/")
	if !plain(name) {
		o.forgetLocked()
		return
	}
	if was, ok := o.rememberedLocked(name); ok && !was.Dir && name != key {
		o.full[key] = map[string]bool{} // nothing was below it, and now there is its marker
	}
	delete(o.looks, name)
	// Every directory above it exists now, and has the name on the way to it.
	for at := name; at != ""; {
		dir, in := split(at)
		if names, ok := o.full[dir]; ok && !names[in] {
			names[in] = true
			o.names++
		}
		at = strings.TrimSuffix(dir, "/")
		if was, ok := o.looks[at]; ok && !was.Dir {
			delete(o.looks, at)
		}
	}
	if o.names > maxNames || len(o.full) > maxNames {
		o.full, o.names = map[string]map[string]bool{}, 0
	}
}

// Publish implements tree.Objects.
func (o *Objects) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	o.begin()
	info, err := o.Objects.Publish(ctx, f)
	if err != nil {
		o.end("")
		return info, err
	}
	o.end(f.Key)
	return info, nil
}

// SetAttr implements tree.Objects.
func (o *Objects) SetAttr(ctx context.Context, key string, version tree.Version, attr tree.Attr) (tree.Info, error) {
	o.begin()
	defer o.end("")
	return o.Objects.SetAttr(ctx, key, version, attr)
}

// Rename implements tree.Objects.
func (o *Objects) Rename(ctx context.Context, from, to string, noReplace bool) (tree.Info, error) {
	o.begin()
	defer o.end("")
	return o.Objects.Rename(ctx, from, to, noReplace)
}

// RenamePrefix implements tree.Objects.
func (o *Objects) RenamePrefix(ctx context.Context, from, to string) error {
	o.begin()
	defer o.end("")
	return o.Objects.RenamePrefix(ctx, from, to)
}

// Remove implements tree.Objects.
func (o *Objects) Remove(ctx context.Context, key string, empty bool) error {
	o.begin()
	defer o.end("")
	return o.Objects.Remove(ctx, key, empty)
}

// EndSession implements tree.Ender where the objects below do.
func (o *Objects) EndSession(ctx context.Context) error {
	if e, ok := o.Objects.(tree.Ender); ok {
		return e.EndSession(ctx)
	}
	return nil
}
