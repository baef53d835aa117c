package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// slotKind is how a configured drive directory is. The words stand in status.
type slotKind string

const (
	slotUp       slotKind = "up"
	slotMissing  slotKind = "missing"   // no directory
	slotBlank    slotKind = "blank"     // a directory without an identity: not mounted, or replaced
	slotForeign  slotKind = "foreign"   // of another cluster
	slotTwice    slotKind = "duplicate" // the same drive is open under another path
	slotDamaged  slotKind = "damaged"   // no copy of the identity can be read
	slotReadOnly slotKind = "read-only"
	slotHanging  slotKind = "hanging" // it does not answer
	slotDown     slotKind = "down"    // ours, but does not work
)

// slotState is what is known of a slot. Identity is zero unless the directory holds one.
type slotState struct {
	kind     slotKind
	reason   string // a sentence, when not up
	identity drive.Identity
}

// slot is one configured drive directory. One goroutine looks at it once a second, opens the drive in it, and takes
// it out when it goes, so a directory on a device that hangs holds up nothing else.
type slot struct {
	fs      vfs.FS
	path    string
	cluster cluster.ClusterID
	drives  *chunkstore.Drives
	wrap    func(chunkstore.Drive) chunkstore.Drive // nil: the drive as it is
	log     *slog.Logger

	running sync.WaitGroup   // for the goroutine
	looked  chan struct{}    // closed after the first look
	open    chunkstore.Drive // the drive registered from here; only the goroutine, or after it release, touches it

	mu    sync.Mutex
	state slotState
	begun time.Time // of the step under way; zero between steps
}

// hangsAfter is how long a look at a directory may take before the drive is said to hang: a loaded device answers in
// less.
const hangsAfter = 3 * time.Second

func (s *slot) look() slotState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// report is look as people should see it: a drive that does not answer is not up, whatever it was before.
func (s *slot) report() slotState {
	state, waited := s.look(), s.waited()
	if state.kind == slotUp {
		waited = max(waited, s.drives.Hanging(state.identity.Drive, time.Now()))
	}
	if waited == 0 || state.kind != slotUp && state.kind != "" {
		return state
	}
	state.kind, state.reason = slotHanging, notAnswering(waited)
	return state
}

// waited tells for how long the look that is under way has been waiting for the directory; zero for a usual time.
func (s *slot) waited() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waited := time.Since(s.begun); !s.begun.IsZero() && waited > hangsAfter {
		return waited
	}
	return 0
}

// silent tells for how long a look at the drive of that id has been waiting.
func (p *Peer) silent(id cluster.DriveID) time.Duration {
	for _, s := range p.slots {
		if s.look().identity.Drive == id {
			return s.waited()
		}
	}
	return 0
}

func notAnswering(waited time.Duration) string {
	return fmt.Sprintf("it has not answered for %v: reads and writes go around it", waited.Round(time.Second))
}

func (s *slot) set(state slotState) {
	s.mu.Lock()
	before := s.state
	s.state = state
	s.mu.Unlock()
	switch {
	case before.kind == state.kind && before.reason == state.reason:
	case before.kind == "" && state.kind == slotUp: // as it should be
		s.log.Debug("drive is up", "drive", state.identity.Name, "path", s.path)
	case state.kind == slotUp:
		s.log.Info("drive is up", "drive", state.identity.Name, "path", s.path)
	default:
		s.log.Warn("drive is not up", "path", s.path, "state", string(state.kind), "reason", state.reason)
	}
}

func (s *slot) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	s.step(ctx)
	close(s.looked)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.step(ctx)
		}
	}
}

// stepping notes that a step begins, or with the zero time that it has ended.
func (s *slot) stepping(begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = begun
}

// step takes the drive out when it no longer works or is no longer there, and opens one that is.
func (s *slot) step(ctx context.Context) {
	s.stepping(time.Now())
	defer s.stepping(time.Time{})
	found := examine(s.fs, s.path, s.cluster)
	if s.open != nil {
		down := s.open.Status().Down
		if down == nil && found.kind == slotUp && found.identity.Drive == s.open.ID() {
			return
		}
		if found.kind == slotUp && down != nil {
			found = slotState{kind: slotDown, reason: down.Error(), identity: found.identity}
			if errors.Is(down, syscall.EROFS) {
				found.kind = slotReadOnly
			}
		}
		s.set(found)
		if err := s.close(); err != nil {
			s.log.Warn("close drive", "path", s.path, "err", err)
		}
		return // the next look opens it again, when it can be
	}
	if ctx.Err() != nil {
		return // the directory answered only now that the peer stops
	}
	if found.kind != slotUp {
		s.set(found)
		return
	}
	s.set(s.start(ctx, found))
}

// start opens and registers the drive that was found.
func (s *slot) start(ctx context.Context, found slotState) slotState {
	if other, open := s.drives.Get(found.identity.Drive); open && moved(other) {
		s.drives.Remove(other.ID()) // its row follows it here
	} else if open {
		found.kind = slotTwice
		found.reason = fmt.Sprintf("drive %s is open under another path: this is a copy of it", found.identity.Name)
		return found
	}
	opened, err := drive.Open(ctx, drive.Config{
		FS: s.fs, Dir: s.path, Name: found.identity.Name, Key: found.identity.IntegrityKey, Cluster: s.cluster, Log: s.log,
	})
	if err != nil {
		found.kind, found.reason = slotDown, err.Error()
		if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
			found.kind = slotReadOnly
		}
		return found
	}
	var registered chunkstore.Drive = opened
	if s.wrap != nil {
		registered = s.wrap(opened)
	}
	if err := s.drives.Add(registered); err != nil {
		found.kind, found.reason = slotDown, errors.Join(err, opened.Close()).Error()
		return found
	}
	s.open = opened
	return found
}

// moved says that a drive was registered as one of another peer, which does not have it any more.
func moved(d chunkstore.Drive) bool {
	_, elsewhere := d.(*remoteDrive)
	return elsewhere && d.Status().Down != nil
}

// close takes the drive out and closes it.
func (s *slot) close() error {
	if s.open == nil {
		return nil
	}
	gone := s.open
	s.open = nil
	s.drives.Remove(gone.ID())
	return gone.Close()
}

// examine tells what a drive directory is. It changes nothing.
func examine(fsys vfs.FS, dir string, own cluster.ClusterID) slotState {
	info, err := fsys.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return slotState{kind: slotMissing, reason: "the directory does not exist"}
	case err != nil:
		return slotState{kind: slotDown, reason: err.Error()}
	case !info.Mode.IsDir():
		return slotState{kind: slotDown, reason: "it is not a directory"}
	}
	identity, err := drive.ReadIdentity(fsys, dir)
	switch {
	case errors.Is(err, drive.ErrNoIdentity):
		return slotState{kind: slotBlank, reason: "the directory holds no drive: not mounted, or replaced; it is left alone"}
	case errors.Is(err, drive.ErrBadIdentity):
		return slotState{kind: slotDamaged, reason: err.Error()}
	case err != nil:
		return slotState{kind: slotDown, reason: err.Error()}
	case own != cluster.ClusterID{} && identity.Cluster != own:
		reason := fmt.Sprintf("it belongs to another cluster, %v, and is left alone; this is %v", identity.Cluster, own)
		return slotState{kind: slotForeign, reason: reason, identity: identity}
	}
	return slotState{kind: slotUp, identity: identity}
}
