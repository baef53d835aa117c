package transport

import (
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"
)

// sparing logs what strangers can cause: once a minute for each of them, with how often it was left out.
type sparing struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[string]*repeats
}

type repeats struct {
	at      time.Time
	leftOut int
}

const (
	sparingPause = time.Minute
	// maxSeen bounds the memory that strangers can fill; then all is forgotten and logged anew.
	maxSeen = 1024
)

func newSparing(log *slog.Logger) *sparing {
	if log == nil {
		log = slog.Default()
	}
	return &sparing{log: log, seen: map[string]*repeats{}}
}

// warn logs, unless it logged for the same who less than a minute ago.
func (s *sparing) warn(who, message string, args ...any) {
	if leftOut, due := s.due(who, time.Now()); due {
		if leftOut > 0 {
			args = append(args, "left_out", leftOut)
		}
		s.log.Warn(message, args...)
	}
}

func (s *sparing) due(who string, now time.Time) (leftOut int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.seen[who]
	if known != nil && now.Sub(known.at) < sparingPause {
		known.leftOut++
		return 0, false
	}
	if known == nil {
		if len(s.seen) >= maxSeen {
			clear(s.seen)
		}
		known = &repeats{}
		s.seen[who] = known
	}
	leftOut, known.leftOut, known.at = known.leftOut, 0, now
	return leftOut, true
}

// addressText is an address that came as text.
type addressText string

func (addressText) Network() string  { return "" }
func (a addressText) String() string { return string(a) }

// hostOf is an address without its port, which changes with each connection.
func hostOf(at net.Addr) string {
	host, _, err := net.SplitHostPort(at.String())
	if err != nil {
		return at.String()
	}
	return host
}

// httpLog takes what net/http has to say: handshakes that were refused.
type httpLog struct{ log *sparing }

var fromAddress = regexp.MustCompile(` from (\S+): `)

// Write implements io.Writer for log.Logger.
func (h httpLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	who := text
	if found := fromAddress.FindStringSubmatch(text); found != nil {
		who = "handshake " + hostOf(addressText(found[1]))
	}
	h.log.warn(who, "a connection failed", "err", text)
	return len(line), nil
}
