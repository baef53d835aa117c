package remote

import (
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// leased is a service with one session, which was heard of some time ago.
func leased(t *testing.T, lease, ago time.Duration) (*Service, *session) {
	t.Helper()
	_, s := NewService(ServiceConfig{Lease: lease, Log: slog.New(slog.DiscardHandler)})
	sess := &session{id: "a mount", objects: treetest.NewModel(), readers: map[uint64]*served{}}
	sess.seen.Store(int64(time.Since(began) - ago))
	sess.timer = time.AfterFunc(time.Hour, func() {})
	s.sessions[sess.id] = sess
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, sess
}

func (s *Service) has(sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[sess.id] == sess
}

// A gateway that stood still did not hear its mounts: it must not take them for dead.
func TestAGatewayThatStoodStillKeepsItsSessions(t *testing.T) {
	for name, c := range map[string]struct {
		ago  time.Duration
		ends bool
	}{
		"heard of just now":       {time.Second, false},
		"not heard of":            {time.Minute + stalled/2, true},
		"the gateway stood still": {2 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, sess := leased(t, time.Minute, c.ago)
			s.expire(sess)
			if s.has(sess) == c.ends {
				t.Errorf("the session ended: %v, want %v", !c.ends, c.ends)
			}
			if !c.ends && sess.silent() > time.Minute {
				t.Error("the lease was not begun anew")
			}
		})
	}
}

// A mount repeats a request for as long as this package says; its session must still be there then.
func TestALeaseIsLongerThanAMountIsPatient(t *testing.T) {
	if Lease < defaultRetry+answerTimeout+lastPause {
		t.Errorf("a lease of %v is over before a mount gives up", Lease)
	}
}
