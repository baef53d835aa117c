package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/storetest"
	"github.com/holdfast/holdfast/cluster/placement"
)

var errDevice = errors.New("input/output error")

// short deadlines keep tests of hanging drives quick.
func impatient(c *chunkstore.Config) {
	c.PutDeadline, c.ReadDeadline = 200*time.Millisecond, 200*time.Millisecond
}

// wantDurable fails unless every chunk would survive the loss of any two drives now.
func wantDurable(k *storetest.Kit, w chunkstore.Written) {
	k.T.Helper()
	missing := make(map[chunkstore.Chunk]uint16)
	for _, in := range w.Intents {
		missing[in.Chunk] = in.Missing
	}
	for _, c := range w.Chunks {
		var durable uint16
		var on placement.Slots
		for i, d := range k.Slots(c) {
			on[i] = d.ID()
			infos, err := d.Shards(context.Background(), c.Volume)
			if err != nil {
				continue
			}
			for _, info := range infos {
				if info.Key.Chunk == c.ID && int(info.Key.Shard) == i {
					durable |= 1 << i
				}
			}
		}
		if claimed := allMask &^ missing[c]; claimed&^durable != 0 {
			k.T.Fatalf("chunk %v: shards %012b claimed durable, %012b are", c.ID, claimed, durable)
		}
		if !placement.Acknowledge(on, allMask&^missing[c]) {
			k.T.Fatalf("chunk %v acknowledged with shards %012b", c.ID, allMask&^missing[c])
		}
	}
}

const allMask uint16 = 1<<chunkstore.Shards - 1

// TestWritesGoAroundFailingDrives fails or hangs 0..6 of 12 drives in the middle of a write: it succeeds with what the
// ack rule asks. With seven there are too few drives, and it says so.
func TestWritesGoAroundFailingDrives(t *testing.T) {
	for _, how := range []string{"fail", "hang", "slow", "down", "full"} {
		for n := 0; n <= 7; n++ {
			if how == "slow" && n > 3 {
				continue // the same as hang, and it takes its time
			}
			t.Run(fmt.Sprintf("%s %d", how, n), func(t *testing.T) {
				t.Parallel()
				k := storetest.New(t, 12, impatient)
				k.Write(storetest.Body(1, 1000)) // volumes are open already
				for i := range n {
					d := k.Drives[(i*5+2)%12]
					switch how {
					case "fail":
						d.Fail(memory.OpPut, errDevice)
					case "hang":
						defer d.Hang(memory.OpPut)()
					case "slow":
						d.Slow(memory.OpPut, time.Second)
					case "down":
						d.Down(errDevice)
					case "full":
						d.SetFull(true)
					}
				}
				body := storetest.Body(uint64(n), chunkstore.MaxChunk+100_000)
				w, err := k.Store.Write(t.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: -1})
				if n > 6 {
					if !errors.Is(err, chunkstore.ErrSlowDown) {
						t.Fatalf("got %v, want ErrSlowDown", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				wantDurable(k, w)
				if n <= 4 { // more lost drives than parity cannot be read by design while they are away
					k.Want(w, body)
				}
			})
		}
	}
}

// TestFaultsInTheMiddleOfAStream lets drives fail one after another while a long body is written.
func TestFaultsInTheMiddleOfAStream(t *testing.T) {
	k := storetest.New(t, 12, impatient)
	body := storetest.Body(2, 40<<20)
	var releases []func()
	r := &stepReader{r: bytes.NewReader(body), step: 6 << 20, at: func(n int) {
		if n < 6 {
			if n%2 == 0 {
				k.Drives[n].Fail(memory.OpPut, errDevice)
			} else {
				releases = append(releases, k.Drives[n].Hang(memory.OpPut))
			}
		}
	}}
	w, err := k.Store.Write(t.Context(), r, chunkstore.WriteOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	fired := 0
	for i := range 6 {
		fired += k.Drives[i].Fired(memory.OpPut)
	}
	if fired == 0 {
		t.Fatal("no fault fired")
	}
	wantDurable(k, w)
	for _, release := range releases {
		release()
	}
	k.Want(w, body)
}

// stepReader calls at(0), at(1), … after every step bytes.
type stepReader struct {
	r    io.Reader
	step int
	at   func(n int)
	read int
}

func (s *stepReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), 100_000)])
	if (s.read+n)/s.step > s.read/s.step {
		s.at(s.read / s.step)
	}
	s.read += n
	return n, err
}

func TestFourGoneWritesThenTwoMoreGoneReads(t *testing.T) {
	k := storetest.New(t, 12, nil)
	k.Remove(1, 4, 6, 11)
	body := storetest.Body(3, 20<<20)
	w := k.Write(body)
	if len(w.Intents) != 0 {
		t.Fatalf("%d intents although the writes doubled up", len(w.Intents))
	}
	wantDurable(k, w)
	left := []int{0, 2, 3, 5, 7, 8, 9, 10}
	for i, a := range left {
		for _, b := range left[:i] {
			k.Remove(a, b)
			got, err := k.Read(w.Chunks, 1<<20, 3*cell)
			if err != nil || !bytes.Equal(got, body[1<<20:1<<20+3*cell]) {
				t.Fatalf("without %d and %d: %v", a, b, err)
			}
			k.Return(a, b)
		}
	}
}

func TestHungReadsAreGoneAround(t *testing.T) {
	for n := 1; n <= 4; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			now := time.Now()
			k := storetest.New(t, 12, func(c *chunkstore.Config) {
				impatient(c)
				c.Hedge = -1                            // with it nobody waits for the drive to be found hanging
				c.Now = func() time.Time { return now } // what is gone around now is gone around to the end
			})
			body := storetest.Body(4, chunkstore.MaxChunk+row)
			w := k.Write(body)
			slots := k.Slots(w.Chunks[0])
			for i := range n {
				defer slots[i*2].Hang(memory.Any)()
			}
			k.Want(w, body)
			around := k.Store.Stats().Around
			if around == 0 || around > int64(n) {
				t.Fatalf("%d reads waited for %d hanging drives", around, n)
			}
			k.Want(w, body)
			if again := k.Store.Stats().Around; again != around {
				t.Fatalf("the second read waited again, %d times", again-around)
			}
		})
	}
}

// TestLastResortIsASuspectDrive: a drive that was slow once is asked again when the others are too few.
func TestLastResortIsASuspectDrive(t *testing.T) {
	k := storetest.New(t, 12, impatient)
	body := storetest.Body(5, row)
	w := k.Write(body)
	slots := k.Slots(w.Chunks[0])
	slow := slots[0]
	slow.Slow(memory.OpRead, 500*time.Millisecond)
	k.Want(w, body)
	for _, d := range slots[5:9] {
		k.Set.Remove(d.ID())
	}
	k.Want(w, body)
	if slow.Fired(memory.OpRead) < 2 {
		t.Fatal("the slow drive was not asked again")
	}
}

func TestFourDamagedShardsReadBitExact(t *testing.T) {
	k := storetest.New(t, 12, nil)
	body := storetest.Body(6, 5*row+12345)
	w := k.Write(body)
	c := w.Chunks[0]
	slots := k.Slots(c)
	for i, shard := range []int{0, 3, 5, 9} {
		key := chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: uint8(shard)}
		damaged := false
		switch i {
		case 0, 1:
			damaged = slots[shard].Damage(key, int64(i)*leaf+1000)
		case 2:
			damaged = slots[shard].DamageHeader(key)
		case 3:
			damaged = slots[shard].Lose(key)
		}
		if !damaged {
			t.Fatalf("shard %d was not there", shard)
		}
	}
	k.Want(w, body)
	k.Eventually("the damage is recorded", func() bool { return k.Volumes.Intent(c)&(1|1<<3|1<<5) == 1|1<<3|1<<5 })
	r, err := k.Store.Check(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Damaged != 1|1<<3|1<<5 || r.Missing != 1<<9 || bits.OnesCount16(r.Good) != 8 || r.Losses != 0 {
		t.Fatalf("check: %+v", r)
	}
	// A fifth makes it unreadable where it is touched, never wrong.
	slots[1].DamageHeader(chunkstore.ShardKey{Volume: c.Volume, Chunk: c.ID, Shard: 1})
	if _, err := k.Read(w.Chunks, 0, w.Size); !errors.Is(err, chunkstore.ErrLost) {
		t.Fatalf("five damaged: %v", err)
	}
}

func TestHungPutKeepsItsMemoryAndNoMore(t *testing.T) {
	k := storetest.New(t, 12, func(c *chunkstore.Config) { impatient(c); c.Memory = 96 * 768 << 10 })
	hung := k.Drives[7]
	release := hung.Hang(memory.OpPut)
	defer release()
	body := storetest.Body(7, 24<<20)
	for range 3 { // far more than the memory
		w := k.Write(body)
		wantDurable(k, w)
	}
	h, err := k.Store.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h.MemoryUsed == 0 || h.MemoryUsed > h.MemoryTotal*3/4 {
		t.Fatalf("%d of %d bytes are held by the drive that hangs", h.MemoryUsed, h.MemoryTotal)
	}
	k.Eventually("the drive is suspect, and it alone", func() bool {
		h, err := k.Store.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range h.Drives {
			if d.Suspect != (d.ID == hung.ID()) {
				return false
			}
		}
		return true
	})
	release()
	k.Eventually("the memory is free", func() bool {
		h, err := k.Store.Health(t.Context())
		return err == nil && h.MemoryUsed == 0
	})
}

// TestCloseLeavesADriveThatHangsBehind closes a store while a drive hangs in a write: an operator who stops it does not
// wait for the drive.
func TestCloseLeavesADriveThatHangsBehind(t *testing.T) {
	t.Parallel()
	k := storetest.New(t, 12, impatient)
	release := k.Drives[7].Hang(memory.OpPut)
	defer release()
	wantDurable(k, k.Write(storetest.Body(8, 8<<20)))
	begun := time.Now()
	if err := k.Store.Close(); !errors.Is(err, chunkstore.ErrDriveDown) {
		t.Errorf("nothing is said of the drive that hangs: %v", err)
	}
	if took := time.Since(begun); took > 8*time.Second { // three where the machine does nothing else
		t.Errorf("Close took %v", took)
	}
}

func TestManyWritesShareTheMemory(t *testing.T) {
	k := storetest.New(t, 12, func(c *chunkstore.Config) { c.Memory = chunkstore.MinMemory * 3 })
	var wait sync.WaitGroup
	for i := range 64 {
		wait.Go(func() {
			body := storetest.Body(uint64(i), 3<<20+i)
			w, err := k.Store.Write(t.Context(), bytes.NewReader(body), chunkstore.WriteOptions{Size: -1})
			if err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			got, err := k.Read(w.Chunks, 0, w.Size)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	k.Eventually("all memory is free", func() bool {
		h, err := k.Store.Health(t.Context())
		return err == nil && h.MemoryUsed == 0
	})
}

// TestSlowClientsHoldOneRowEach: 1,000 clients that stall leave room for the others.
func TestSlowClientsHoldOneRowEach(t *testing.T) {
	const clients, rows = 1000, 1040
	k := storetest.New(t, 12, func(c *chunkstore.Config) { c.Memory = rows * 768 << 10 })
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	stalled := make(chan struct{}, clients)
	for i := range clients {
		size := 100
		if i < 30 {
			size = 3*row + 100 // these hold finished rows, too
		}
		wait.Go(func() {
			r := &stallReader{r: bytes.NewReader(storetest.Body(uint64(i), size)), ctx: ctx, stalled: stalled}
			if _, err := k.Store.Write(ctx, r, chunkstore.WriteOptions{Size: -1}); !errors.Is(err, context.Canceled) {
				t.Errorf("slow client %d: %v", i, err)
			}
		})
	}
	for range clients {
		<-stalled
	}
	for i := range 8 {
		body := storetest.Body(uint64(i), 9<<20)
		k.Want(k.Write(body), body)
	}
	cancel()
	wait.Wait()
	k.Eventually("all memory is free", func() bool {
		h, err := k.Store.Health(t.Context())
		return err == nil && h.MemoryUsed == 0
	})
}

// stallReader gives its bytes and then nothing until ctx ends.
type stallReader struct {
	r       io.Reader
	ctx     context.Context
	stalled chan<- struct{}
	once    sync.Once
}

func (s *stallReader) Read(p []byte) (int, error) {
	if n, _ := s.r.Read(p); n > 0 {
		return n, nil
	}
	s.once.Do(func() { s.stalled <- struct{}{} })
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestNoMemoryIsSlowDown(t *testing.T) {
	t.Parallel() // it waits for five seconds
	k := storetest.New(t, 12, func(c *chunkstore.Config) { c.Memory = chunkstore.MinMemory })
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	stalled := make(chan struct{}, 32)
	for range 32 {
		wait.Go(func() {
			r := &stallReader{r: bytes.NewReader([]byte("x")), ctx: ctx, stalled: stalled}
			if _, err := k.Store.Write(ctx, r, chunkstore.WriteOptions{Size: -1}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	for range 32 {
		<-stalled
	}
	begun := time.Now()
	_, err := k.Store.Write(t.Context(), bytes.NewReader([]byte("y")), chunkstore.WriteOptions{Size: 1})
	if !errors.Is(err, chunkstore.ErrSlowDown) || time.Since(begun) < 4*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	if k.Store.Stats().Refused != 1 {
		t.Errorf("stats: %+v", k.Store.Stats())
	}
	cancel()
	wait.Wait()
}

// TestCloseWaitsForBuffersThatComeBack: who uses the Store hears of its end by an error, and then gives its memory back.
func TestCloseWaitsForBuffersThatComeBack(t *testing.T) {
	k := storetest.New(t, 12, nil)
	release, err := k.Store.HoldMemory(2)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, release)
	k.Restart()
	body := storetest.Body(1, 100_000)
	k.Want(k.Write(body), body)
}
