package join

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/holdfast/holdfast/cluster/topology"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// Why a peer is not let in, or not renewed. What a joining peer gets says more: it is meant for the person who started it.
var (
	// ErrTokenUsed says that the token admitted another key.
	ErrTokenUsed = errors.New("the join token was used already; ask for another")
	// ErrClock says that the clocks of the two machines are too far apart.
	ErrClock = errors.New("the clocks of the machines differ; set them and join again")
	// ErrOldRelease says that the peer does not know the commands that the cluster uses.
	ErrOldRelease = errors.New("this release of holdfast is too old for the cluster; install the cluster's release")
	// ErrRemoved says that the peer was removed from the cluster. It may join as a new one, with blank drives.
	ErrRemoved = errors.New("the peer was removed from the cluster")
	// ErrRunning says that the peer whose place is asked for seems to run, and its key did not sign.
	ErrRunning = errors.New("a peer with this id is running")
	// ErrDrive says that a drive belongs to another peer.
	ErrDrive = errors.New("the drive belongs to another peer")
	// ErrBadAsk says that what the joining peer asked for is not in our form, or out of bounds.
	ErrBadAsk = errors.New("not a request to join")
	// ErrUnavailable says that the cluster cannot admit anybody now: another peer, or another time, may.
	ErrUnavailable = errors.New("the cluster cannot admit peers now; try again")
	// ErrOtherCluster says that whoever answers does not belong to the cluster of the token.
	ErrOtherCluster = errors.New("another cluster than the join token's answers")
	// ErrUnreachable says that no address of the token could be talked to.
	ErrUnreachable = errors.New("no peer of the cluster could be asked")
)

// refusals are what an admitting peer answers with. Codes are promises on the wire: one is never used for another error.
var refusals = []struct {
	code  string
	error error
}{
	{"token_wrong", trust.ErrTokenWrong},
	{"token_expired", trust.ErrTokenExpired},
	{"token_used", ErrTokenUsed},
	{"clock", ErrClock},
	{"name_taken", topology.ErrNameTaken},
	{"full", topology.ErrFull},
	{"old_release", ErrOldRelease},
	{"removed", ErrRemoved},
	{"unknown_peer", topology.ErrUnknownPeer},
	{"running", ErrRunning},
	{"drive", ErrDrive},
	{"bad_ask", ErrBadAsk},
	{"unavailable", ErrUnavailable},
}

// refusal is an answer that is no. The message is for a person; errors.Is finds the sentinel.
type refusal struct {
	code, message string
	sentinel      error
}

func (r *refusal) Error() string { return r.message }
func (r *refusal) Unwrap() error { return r.sentinel }

// refusalOf is how err is told to a joining peer. What is no refusal of ours tells nothing of what is inside.
func refusalOf(err error) *refusal {
	for _, known := range refusals {
		if errors.Is(err, known.error) {
			return &refusal{known.code, printable(err.Error()), known.error}
		}
	}
	return &refusal{"unavailable", ErrUnavailable.Error(), ErrUnavailable}
}

// receivedRefusal is what came over the wire. A code that this release does not know has no sentinel.
func receivedRefusal(code, message string) *refusal {
	r := &refusal{code: code, message: message}
	for _, known := range refusals {
		if known.code == code {
			r.sentinel = known.error
		}
	}
	if message == "" {
		r.message = fmt.Sprintf("the cluster refuses: %s", code)
	}
	return r
}

// maxMessage bounds what a refusal says, in bytes.
const maxMessage = 1 << 10

// printable is what may be shown of a text from outside.
func printable(text string) string {
	shown := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, shorten(text, maxMessage))
	return strings.TrimSpace(strings.ToValidUTF8(shown, "?"))
}

func shorten(text string, most int) string {
	if len(text) > most {
		return text[:most]
	}
	return text
}

// Stats are counts since the Server was made.
type Stats struct {
	// Admitted are new peers, Rejoined those that came back, Repeated answers that were given once more.
	Admitted, Rejoined, Repeated uint64
	// Refused are refusals by their codes on the wire; "broken" counts conversations that ended in their middle.
	Refused map[string]uint64
}

type counts struct {
	mu    sync.Mutex
	stats Stats
}

func (c *counts) refused(code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats.Refused == nil {
		c.stats.Refused = map[string]uint64{}
	}
	c.stats.Refused[code]++
}

func (c *counts) admitted(how outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch how {
	case admitted:
		c.stats.Admitted++
	case rejoined:
		c.stats.Rejoined++
	case repeated:
		c.stats.Repeated++
	}
}

func (c *counts) get() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Refused = map[string]uint64{}
	for code, n := range c.stats.Refused {
		s.Refused[code] = n
	}
	return s
}

// Sentinels are the errors of renewal as they go over the transport.
func Sentinels() transport.Sentinels {
	return transport.Sentinels{
		"join.removed": ErrRemoved, "join.no_secrets": ErrNoSecrets, "join.bad_request": trust.ErrBadRequest,
	}
}
