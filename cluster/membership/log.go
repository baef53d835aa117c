package membership

import (
	"bytes"
	"context"
	"log/slog"
	"time"
)

// logBridge takes memberlist's log lines. They are for its developers, and anybody who can reach the port can make it
// write them, so they are shown at debug level only. What an operator should know is logged by this package.
type logBridge struct{ m *Membership }

// A member that does not answer this peer's probe is told of by this line and in no other way. A test holds it to it.
var suspectLine = [2][]byte{[]byte("[INFO] memberlist: Suspect "), []byte(" has failed, no acks received")}

// Write implements io.Writer for one line.
func (b logBridge) Write(line []byte) (int, error) {
	if text, ok := bytes.CutPrefix(line, suspectLine[0]); ok {
		text, _, _ = bytes.Cut(text, suspectLine[1])
		if name, err := parseName(string(text)); err == nil {
			b.m.change(name.id, func(ls lives) { ls.suspect(name.incarnation, time.Now()) })
		}
	}
	if b.m.log.Enabled(context.Background(), slog.LevelDebug) {
		b.m.log.Debug("gossip", "line", string(bytes.TrimSpace(line)))
	}
	return len(line), nil
}
