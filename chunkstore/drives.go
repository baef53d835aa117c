package chunkstore

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// ErrDriveExists says that a drive of that id is registered already.
var ErrDriveExists = errors.New("drive is registered already")

// Drives is the registry of the drives that can be reached, by id. A missing drive is one that is not there. The
// registry does not own its drives: whoever adds a drive removes and closes it. The zero Drives is not usable; make it
// with NewDrives. All methods may be called concurrently.
type Drives struct {
	mu       sync.Mutex
	members  map[cluster.DriveID]*member
	watchers map[chan struct{}]struct{}
}

// NewDrives returns an empty registry.
func NewDrives() *Drives {
	return &Drives{members: make(map[cluster.DriveID]*member), watchers: make(map[chan struct{}]struct{})}
}

// Add registers a drive; ErrDriveExists when its id is taken.
func (d *Drives) Add(drive Drive) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := drive.ID()
	if _, ok := d.members[id]; ok {
		return fmt.Errorf("drive %v: %w", id, ErrDriveExists)
	}
	d.members[id] = newMember(drive)
	d.notify()
	return nil
}

// Remove takes the drive of that id out and returns it, nil when there is none. Calls that are under way on it go on
// until they return; the caller then closes it.
func (d *Drives) Remove(id cluster.DriveID) Drive {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.members[id]
	if !ok {
		return nil
	}
	delete(d.members, id)
	d.notify()
	return m.drive
}

// Get returns the drive of that id.
func (d *Drives) Get(id cluster.DriveID) (Drive, bool) {
	m := d.member(id)
	if m == nil {
		return nil, false
	}
	return m.drive, true
}

// Hanging tells for how long calls on the drive of that id have been waiting for an answer, longer than any load
// explains; zero when it answers.
func (d *Drives) Hanging(id cluster.DriveID, now time.Time) time.Duration {
	m := d.member(id)
	if m == nil {
		return 0
	}
	return m.hanging(now)
}

// All returns the drives in order of id.
func (d *Drives) All() []Drive {
	members := d.all()
	drives := make([]Drive, len(members))
	for i, m := range members {
		drives[i] = m.drive
	}
	return drives
}

// Subscribe returns a channel that receives after drives came or went. One value may stand for several changes, so
// the receiver looks at All; it is never sent to while a value waits in it. The caller calls cancel when done.
func (d *Drives) Subscribe() (changed <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	d.mu.Lock()
	d.watchers[ch] = struct{}{}
	d.mu.Unlock()
	return ch, func() {
		d.mu.Lock()
		delete(d.watchers, ch)
		d.mu.Unlock()
	}
}

// notify is called with mu held.
func (d *Drives) notify() {
	for ch := range d.watchers {
		select {
		case ch <- struct{}{}:
		default: // a value waits there already
		}
	}
}

func (d *Drives) member(id cluster.DriveID) *member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.members[id]
}

// slots finds the members of a volume's slots, nil where one is missing.
func (d *Drives) slots(ids *DriveIDs, members *[Shards]*member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, id := range ids {
		members[i] = d.members[id]
	}
}

// sample sets some of the members, other ones each time where there are more, and returns how many.
func (d *Drives) sample(members []*member) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, m := range d.members {
		if n == len(members) {
			break
		}
		members[n] = m
		n++
	}
	return n
}

// all returns the members in order of id.
func (d *Drives) all() []*member {
	d.mu.Lock()
	members := make([]*member, 0, len(d.members))
	for _, m := range d.members {
		members = append(members, m)
	}
	d.mu.Unlock()
	sort.Slice(members, func(i, j int) bool {
		a, b := members[i].drive.ID(), members[j].drive.ID()
		return string(a[:]) < string(b[:])
	})
	return members
}
