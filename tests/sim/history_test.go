package sim

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// kind is what a client did to one key.
type kind uint8

const (
	get      kind = iota // GET, or what a LIST says of the key
	put                  // PUT and CompleteMultipartUpload without conditions
	create               // PUT with If-None-Match: *
	exchange             // PUT with If-Match
	remove               // DELETE
)

func (k kind) String() string {
	return [...]string{"get", "put", "create", "exchange", "remove"}[k]
}

// status is how an operation ended.
type status uint8

const (
	done    status = iota
	failed         // a condition was not met: nothing was changed
	unknown        // it may have been done, or may be at any later time
)

func (s status) String() string { return [...]string{"done", "failed", "unknown"}[s] }

// call is one operation on one key. Values are ETags; "" is no object.
type call struct {
	kind   kind
	key    string
	value  string // what is written
	expect string // of an exchange
	client int
	where  string // the gateway, and what kind of request it was

	status status
	got    string // what a get saw
	found  bool   // whether a remove found something

	invoked, returned int64
	at                time.Duration // when it was invoked, since the bubble's beginning
}

func (c *call) String() string {
	text := fmt.Sprintf("%6d..%-6d %8v client %d %-12s %s %s", c.invoked, c.returned, c.at.Round(time.Millisecond), c.client, c.where, c.key, c.kind)
	switch c.kind {
	case get:
		return text + " → " + short(c.got)
	case exchange:
		text += " " + short(c.expect) + " by"
	case remove:
		return fmt.Sprintf("%s %v (found %v)", text, c.status, c.found)
	}
	return fmt.Sprintf("%s %s %v", text, short(c.value), c.status)
}

func short(etag string) string {
	if etag == "" {
		return "nothing"
	}
	return etag[:min(8, len(etag))]
}

// history is what the clients of a run did and saw.
type history struct {
	clock    atomic.Int64
	inFlight atomic.Int64
	begun    time.Time

	mu      sync.Mutex
	calls   []*call
	written map[string]string // ETag to key, from before the write was sent
	strange []string          // what no history explains
}

func newHistory() *history { return &history{written: map[string]string{}, begun: time.Now()} }

// invoke notes that an operation begins.
func (h *history) invoke(c *call) {
	c.invoked, c.at = h.clock.Add(1), time.Since(h.begun)
	h.inFlight.Add(1)
	if c.value != "" {
		h.mu.Lock()
		h.written[c.value] = c.key
		h.mu.Unlock()
	}
}

// settle notes how it ended.
func (h *history) settle(c *call, s status) {
	c.returned, c.status = h.clock.Add(1), s
	h.inFlight.Add(-1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
}

// forget notes that an operation ended and says nothing: a read that failed, a write that was refused before it began.
func (h *history) forget(*call) { h.inFlight.Add(-1) }

func (h *history) wrong(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.strange = append(h.strange, fmt.Sprintf(format, args...))
}

// saw checks that somebody wrote, to this key, what a read found: else it is a ghost.
func (h *history) saw(key, etag, where string) {
	h.mu.Lock()
	of, known := h.written[etag]
	h.mu.Unlock()
	switch {
	case etag == "":
	case !known:
		h.wrong("ghost: %s holds %s at %s, which nobody wrote", key, etag, where)
	case of != key:
		h.wrong("ghost: %s holds %s at %s, which was written to %s", key, etag, where, of)
	}
}

// byKey gives the calls of each key in order of invocation.
func (h *history) byKey() map[string][]*call {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := map[string][]*call{}
	for _, c := range h.calls {
		keys[c.key] = append(keys[c.key], c)
	}
	for _, calls := range keys {
		slices.SortFunc(calls, func(a, b *call) int { return int(a.invoked - b.invoked) })
	}
	return keys
}

// explains says whether the call can have seen a key in this state.
func (c *call) explains(now string) bool {
	switch {
	case c.kind == get:
		return c.got == now
	case c.kind == create:
		return (c.status == done) == (now == "")
	case c.kind == exchange:
		return (c.status == done) == (now == c.expect)
	case c.kind == remove:
		return c.found == (now != "")
	}
	return true
}

// after is what the call makes of a key in this state.
func (c *call) after(now string) string {
	switch {
	case c.status == failed, c.kind == get, c.kind == create && now != "", c.kind == exchange && now != c.expect:
		return now
	case c.kind == remove:
		return ""
	}
	return c.value
}

// ledger compares each read with what had been acknowledged before it, without a search: what it says is short.
func (h *history) ledger() []string {
	var complaints []string
	for key, calls := range h.byKey() {
		for _, read := range calls {
			if read.kind != get {
				continue
			}
			word := "stale read"
			if strings.HasSuffix(read.where, final) {
				word = "lost write, or resurrection"
			}
			if w := overlooked(calls, read); w != nil {
				complaints = append(complaints, fmt.Sprintf("%s: %s\n%v\n%v", word, key, w, read))
			}
		}
	}
	return complaints
}

// overlooked gives an acknowledged change that a read must have seen and has not.
func overlooked(calls []*call, read *call) *call {
	if read.got == "" {
		return lost(calls, read)
	}
	return replaced(calls, read)
}

// final marks the reads after everything has healed.
const final = "/final"

// lost gives an acknowledged write that no removal can have followed.
func lost(calls []*call, read *call) *call {
	for _, w := range calls {
		if w.kind == get || w.kind == remove || w.status != done || w.returned > read.invoked {
			continue
		}
		if !slices.ContainsFunc(calls, func(r *call) bool {
			return r.kind == remove && r.invoked < read.returned && (r.status == unknown || r.returned > w.invoked)
		}) {
			return w
		}
	}
	return nil
}

// replaced gives an acknowledged change that began after the acknowledged write of what was read had ended, and ended
// before the read began.
func replaced(calls []*call, read *call) *call {
	at := slices.IndexFunc(calls, func(c *call) bool { return c.value == read.got && c.kind != get })
	if at < 0 || calls[at].status != done {
		return nil // ghosts are told elsewhere; one of unknown outcome may come late
	}
	for _, c := range calls {
		if c.kind != get && c.status == done && c.invoked > calls[at].returned && c.returned < read.invoked && (c.kind != remove || c.found) {
			return c
		}
	}
	return nil
}

func describe(calls []*call) string {
	var b strings.Builder
	for _, c := range calls {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}
