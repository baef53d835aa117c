package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/membership"
	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/cluster/trust"
)

// A removed peer knows the gossip key, so the cluster takes another one. Who leads makes the steps, each one a command
// that compares the revisions of what it read; the others follow the row of the keys, which they read over mutual TLS.
// That a rotation is due follows from two numbers, so a removal needs no step of its own to begin one: the list of whom
// the cluster trusts has a higher epoch than the one that the key was made under.
//
//	rows         the others' rings    next step, when all peers that are up …             what a crash leaves
//	old          old                  refuse the removed one: new key, as second          due still: the numbers say so
//	old, new     old → old, new       take the new key: it becomes the first              all seal with old, and open it
//	new, old     old, new → new, old  seal with the new key: the old one goes             some seal with either, all open both
//	new          new, old → new       —                                                   all seal with new, and open it
//
// So at each moment, also in the middle of a step, what one peer seals every other peer that is up opens. A leader that
// dies leaves rows from which the next one goes on, and two that lead for a moment make the same step once. A key is made
// only when all that are up refuse the removed peer, or it could still read the row from one that does not. A peer that is
// not up is not waited for: it reads the row when it is back, over mutual TLS, and is dead to the gossip until then.
// Somebody who is removed in the middle makes another rotation due when this one has ended.

// rotationName is the row of kind root.Cluster that says how far a rotation is.
const rotationName = "rotation"

// turn is how far a rotation is.
type turn uint8

const (
	// settled: there is one key.
	settled turn = iota
	// spreading: the second key is new, and nobody seals with it yet.
	spreading
	// using: the first key is new, and the second goes.
	using
)

func (t turn) String() string {
	return [...]string{"one key", "the new key is spread", "the new key is used"}[t]
}

// rotation is that row: how far it is, and the epoch of the list under which the newest key was made. Without the row it
// is the first key, which is made under the first list.
type rotation struct {
	turn turn
	list cluster.Epoch
}

// rotationMagic begins the row; its last digit is the format.
const rotationMagic = "HFGOSRT1"

const rotationSize = len(rotationMagic) + 1 + 8 + sha256.Size

// marshal lays the row out; FORMAT.md has the box.
func (r rotation) marshal() []byte {
	data := append([]byte(rotationMagic), byte(r.turn))
	data = binary.LittleEndian.AppendUint64(data, uint64(r.list))
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// ErrBadRotation says that bytes are no state of a rotation in a format known here.
var ErrBadRotation = errors.New("not the state of a rotation of gossip keys")

func parseRotation(data []byte) (rotation, error) {
	if len(data) != rotationSize || string(data[:len(rotationMagic)]) != rotationMagic {
		return rotation{}, fmt.Errorf("%d bytes: %w", len(data), ErrBadRotation)
	}
	body := data[:len(data)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(body):]) {
		return rotation{}, fmt.Errorf("checksum mismatch: %w", ErrBadRotation)
	}
	r := rotation{turn: turn(body[len(rotationMagic)]), list: cluster.Epoch(binary.LittleEndian.Uint64(body[len(rotationMagic)+1:]))}
	if r.turn > using {
		return rotation{}, fmt.Errorf("turn %d: %w", r.turn, ErrBadRotation)
	}
	return r, nil
}

// KeyPrint names a gossip key without telling it: the first bytes of a digest.
type KeyPrint [8]byte

// PrintOf is the print of a key.
func PrintOf(key membership.Key) KeyPrint {
	sum := sha256.Sum256(append([]byte("holdfast gossip key print 1\x00"), key[:]...))
	return KeyPrint(sum[:])
}

func printsOf(keys []membership.Key) []KeyPrint {
	prints := make([]KeyPrint, len(keys))
	for i, key := range keys {
		prints[i] = PrintOf(key)
	}
	return prints
}

// Holding is what a peer has: the epoch of its list of whom the cluster trusts, and its gossip keys, the one that seals
// first.
type Holding struct {
	List cluster.Epoch `json:"list"`
	Keys []KeyPrint    `json:"keys"`
}

// Rotation is the worker of who leads that takes another gossip key when a peer was removed.
type Rotation struct {
	Root *root.Client
	// Holdings asks each peer that is up what it has, this one too. An error, also that one of them did not answer, makes
	// the rotation wait.
	Holdings func(context.Context) (map[cluster.PeerID]Holding, error)
	// Every is how often it looks. Zero means 5 s.
	Every time.Duration
	// Log hears of each step. Nil means slog.Default.
	Log *slog.Logger
}

const (
	// rotationEvery is the default of Rotation.Every and of GossipKeys.Every.
	rotationEvery = 5 * time.Second
	// rotationPatience is how long a step may wait until the operator hears of it: some seconds are usual.
	rotationPatience = time.Minute
)

// errDue says that there is a step to make, and why it is not made now.
var errDue = errors.New("it is due since a peer was removed")

// Name says what the worker is called in status.
func (*Rotation) Name() string { return "gossip key" }

// Run makes the steps until ctx ends.
func (r *Rotation) Run(ctx context.Context) error {
	every := r.Every
	if every == 0 {
		every = rotationEvery
	}
	var since time.Time // since when a step waits
	told := false
	for {
		_, err := r.Step(ctx)
		level := slog.LevelDebug
		switch {
		case err == nil:
			since, told = time.Time{}, false
		case !errors.Is(err, errDue): // the root group does not answer
		case since.IsZero():
			since = time.Now()
		case !told && time.Since(since) >= rotationPatience:
			level, told = slog.LevelWarn, true
		}
		if err != nil && ctx.Err() == nil {
			r.log().Log(ctx, level, "the rotation of the gossip key waits", "err", err)
		}
		if !sleep(ctx, every) {
			return nil
		}
	}
}

func (r *Rotation) log() *slog.Logger {
	if r.Log == nil {
		return slog.Default()
	}
	return r.Log
}

// rotationRows are what a step is made from.
type rotationRows struct {
	keysRow, stateRow root.Row
	keys              []membership.Key
	state             rotation
	list              trust.List
}

func (r *Rotation) load(ctx context.Context) (rows rotationRows, err error) {
	if _, rows.list, err = loadList(ctx, r.Root); err != nil {
		return rows, err
	}
	if rows.keysRow, rows.keys, err = loadGossip(ctx, r.Root); err != nil {
		return rows, err
	}
	rows.stateRow, err = r.Root.Row(ctx, root.Cluster, rotationName)
	switch {
	case errors.Is(err, root.ErrNotFound):
		rows.stateRow, rows.state = root.Row{Kind: root.Cluster, Name: rotationName}, rotation{list: 1}
		return rows, nil
	case err == nil:
		rows.state, err = parseRotation(rows.stateRow.Value)
	}
	if err == nil && rows.state.turn != settled && len(rows.keys) != maxGossip {
		err = fmt.Errorf("%w: %v, and there are %d keys", ErrBadRotation, rows.state.turn, len(rows.keys))
	}
	if err != nil {
		return rows, fmt.Errorf("read the cluster's row %q: %w", rotationName, err)
	}
	return rows, nil
}

// Step makes the next step if there is one to make now. An error says what it waits for.
func (r *Rotation) Step(ctx context.Context) (stepped bool, err error) {
	rows, err := r.load(ctx)
	if err != nil || rows.state.turn == settled && rows.list.Epoch <= rows.state.list {
		return false, err
	}
	if stepped, err = r.next(ctx, rows); err != nil {
		err = fmt.Errorf("%w: %w", errDue, err)
	}
	return stepped, err
}

// next makes the step that is due.
func (r *Rotation) next(ctx context.Context, rows rotationRows) (stepped bool, err error) {
	holdings, err := r.Holdings(ctx)
	if err != nil {
		return false, err
	}
	next, keys := rows.state, rows.keys
	switch rows.state.turn {
	case settled:
		for id, h := range holdings {
			if h.List < rows.list.Epoch {
				return false, fmt.Errorf("peer %v does not know yet who was removed", id)
			}
		}
		next, keys = rotation{spreading, rows.list.Epoch}, []membership.Key{keys[0], NewGossipKey()}
	case spreading:
		next.turn, keys = using, []membership.Key{keys[1], keys[0]}
	case using:
		next.turn, keys = settled, keys[:1]
	}
	for id, h := range holdings {
		if !slices.Equal(h.Keys, printsOf(rows.keys)) {
			return false, fmt.Errorf("peer %v has not followed yet: %v", id, rows.state.turn)
		}
	}
	rows.keysRow.Value, rows.stateRow.Value = marshalGossip(keys), next.marshal()
	switch _, err := r.Root.PutRows(ctx, []root.Row{rows.keysRow, rows.stateRow}); {
	case errors.Is(err, root.ErrConflict):
		return false, nil // another leader made it
	case err != nil:
		return false, fmt.Errorf("rotate the gossip key: %w", err)
	}
	r.log().Info("the gossip key is rotated, because a peer was removed", "now", next.turn.String(), "peers", len(holdings))
	return true, nil
}

// loadGossip reads the keys and their row.
func loadGossip(ctx context.Context, client *root.Client) (root.Row, []membership.Key, error) {
	row, err := client.Row(ctx, root.Cluster, gossipName)
	if errors.Is(err, root.ErrNotFound) {
		return row, nil, ErrNoSecrets
	}
	var keys []membership.Key
	if err == nil {
		keys, err = parseGossip(row.Value)
	}
	if err != nil {
		return row, nil, fmt.Errorf("read the cluster's row %q: %w", gossipName, err)
	}
	return row, keys, nil
}

// GossipKeys is the worker that makes a peer's gossip keys those of the row. It reads the row over mutual TLS, so a peer
// that slept through a rotation comes back by it.
type GossipKeys struct {
	Root *root.Client
	// Use makes keys those of the gossip, the first for sealing. Nil where there is none.
	Use func([]membership.Key) error
	// Save stores keys for the next start.
	Save func([]membership.Key) error
	// Held are the keys in use at the start.
	Held []membership.Key
	// Every is how often the row is read. Zero means 5 s.
	Every time.Duration
	// Log hears of changes. Nil means slog.Default.
	Log *slog.Logger

	mu sync.Mutex // guards Held
}

// Name says what the worker is called in status.
func (*GossipKeys) Name() string { return "gossip keys" }

// Prints are those of the keys in use.
func (g *GossipKeys) Prints() []KeyPrint {
	g.mu.Lock()
	defer g.mu.Unlock()
	return printsOf(g.Held)
}

// Run keeps the keys until ctx ends. While the root group does not answer they stay as they are.
func (g *GossipKeys) Run(ctx context.Context) error {
	log, every := g.Log, g.Every
	if log == nil {
		log = slog.Default()
	}
	if every == 0 {
		every = rotationEvery
	}
	told := false
	for {
		switch changed, err := g.Refresh(ctx); {
		case ctx.Err() != nil:
		case errors.Is(err, errNotTaken) && !told:
			log.Warn("the gossip keys of the cluster have changed, and this peer does not follow", "err", err)
			told = true
		case err != nil:
			log.Debug("the gossip keys were not read, or still cannot be taken", "err", err)
		default:
			told = false
			if changed {
				log.Info("the gossip keys have changed", "keys", len(g.Prints()))
			}
		}
		if !sleep(ctx, every) {
			return nil
		}
	}
}

// errNotTaken says that there are other keys, which this peer cannot store or use.
var errNotTaken = errors.New("take the new gossip keys")

// Refresh reads the row, and uses and stores its keys when they are others.
func (g *GossipKeys) Refresh(ctx context.Context) (changed bool, err error) {
	_, keys, err := loadGossip(ctx, g.Root)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Equal(keys, g.Held) {
		return false, nil
	}
	// Stored first: a start with keys that the row has not any more is put right by the row, as this one is.
	if err := g.Save(keys); err != nil {
		return false, fmt.Errorf("%w: store them: %w", errNotTaken, err)
	}
	if g.Use != nil {
		if err := g.Use(keys); err != nil {
			return false, fmt.Errorf("%w: use them: %w", errNotTaken, err)
		}
	}
	g.Held = keys
	return true, nil
}
