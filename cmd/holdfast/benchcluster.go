package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

const (
	clusterPeers  = 3
	clusterDrives = 4 // of each peer: twelve in all
	commitClients = 256
	commitBody    = 256
	// clusterPatience is how long a new cluster may take until all its groups have three voters.
	clusterPatience = 2 * time.Minute
	// stopPatience is how long a peer may take to stop, before it is killed.
	stopPatience = 40 * time.Second
	// logTail is how much of a peer's log an error shows, in bytes.
	logTail = 2 << 10
)

// store is what large objects are moved to and from.
type store struct {
	wire   *wire
	bucket string
	// dir is where its drives are, below.
	dir string
}

// itself is the store under measurement.
func (b *bench) itself() store {
	return store{b.wire, b.bucket, filepath.Join(b.options.client.dir, "drives")}
}

// trio is a cluster of three peers on this machine, each a process of its own.
type trio struct {
	dir     string
	clients clientOptions // of the first peer
	peers   []*exec.Cmd
	cancel  context.CancelFunc
}

// cluster measures what it costs that there are several peers: the same loads go to the store under measurement and to
// three peers on 127.0.0.1 to 127.0.0.3, turn and turn about, and the one's figures are the bars of the other's.
func (b *bench) cluster(ctx context.Context) error {
	return b.inScratch(func(dir string) error {
		t := &trio{dir: dir}
		err := t.start(ctx, b)
		if err == nil {
			err = b.inTrio(ctx, t)
		}
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, t.logs())
		}
		return errors.Join(err, t.stop())
	})
}

func (b *bench) inTrio(ctx context.Context, t *trio) (err error) {
	w, err := b.session.wireClient(&t.clients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	client, err := b.session.s3Client(&t.clients)
	if err != nil {
		return err
	}
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &b.bucket}); err != nil {
		return err
	}
	one := b.itself()
	three := store{w, b.bucket, t.dir}
	before := len(b.figures)
	for range b.options.rounds {
		if err := errors.Join(b.compare(ctx, one, three), b.commits(ctx, three)); err != nil {
			return err
		}
	}
	b.keepMedians(before)
	return nil
}

// compare moves large objects to and from one peer, and three.
func (b *bench) compare(ctx context.Context, one, three store) error {
	for _, load := range []struct {
		name string
		move func(context.Context, store) (float64, error)
	}{{"PUT", putAll}, {"GET", getAll}} {
		alone, err := load.move(ctx, one)
		if err != nil {
			return err
		}
		rate, err := load.move(ctx, three)
		if err != nil {
			return err
		}
		b.addBeside(load.name+" 64 MiB, 3 peers", rate, alone, "one peer")
	}
	return nil
}

// putAll puts the large objects, and tells how fast in MB/s.
func putAll(ctx context.Context, s store) (float64, error) {
	body := randomBlock(largeObject, 4)
	return eachLarge(2*runtime.NumCPU(), func(i int) error { return s.wire.put(ctx, s.bucket, largeKey(i), body) })
}

// getAll reads the large objects, each once, from the drives where their files can be reached from here.
func getAll(ctx context.Context, s store) (float64, error) {
	if err := chill(s.dir); err != nil && !errors.Is(err, errNoChunks) {
		return 0, err
	}
	return eachLarge(runtime.NumCPU(), func(i int) error {
		out, err := s.wire.get(ctx, s.bucket, largeKey(i), "")
		if err != nil {
			return err
		}
		_, err = discard(out)
		return err
	})
}

func eachLarge(clients int, move func(i int) error) (float64, error) {
	var group errgroup.Group
	group.SetLimit(clients)
	began := time.Now()
	for i := range largeObjects {
		group.Go(func() error { return move(i) })
	}
	err := group.Wait()
	return largeObjects * largeObject / 1e6 / time.Since(began).Seconds(), err
}

// commits puts objects that stand in their metadata records, with one client and with many.
func (b *bench) commits(ctx context.Context, s store) error {
	body := randomBlock(commitBody, 7)
	stamp := time.Now().UnixNano()
	rate := func(clients int) (float64, error) {
		return b.steady(ctx, clients, func(ctx context.Context, n int64) error {
			return s.wire.put(ctx, s.bucket, fmt.Sprintf("commit/%x/%03d/%09d", stamp, clients, n), body)
		})
	}
	alone, err := rate(1)
	if err != nil {
		return err
	}
	many, err := rate(commitClients)
	if err != nil {
		return err
	}
	b.add(figure{Name: "commits, 256 clients, 3 voters", Value: many, Unit: "/s", Bar: 3 * alone,
		Beside: fmt.Sprintf("3 x %s/s of one client just before", amount(alone))})
	return nil
}

// start makes the cluster and waits until every group has three voters.
func (t *trio) start(ctx context.Context, b *bench) error {
	// Its peers end by a signal when the context does, or by stop.
	ctx, t.cancel = context.WithCancel(ctx)
	key, _, err := b.session.access(&b.options.client)
	if err != nil {
		return err
	}
	root := []string{"HOLDFAST_ROOT_ACCESS_KEY=" + key.AccessKey, "HOLDFAST_ROOT_SECRET_KEY=" + string(key.Secret)}
	t.clients = b.options.client
	for n := 1; n <= clusterPeers; n++ {
		address, err := freeAddress(fmt.Sprintf("127.0.0.%d", n))
		if err != nil {
			return err
		}
		if n == 1 {
			t.clients.endpoint, t.clients.ca = "http://"+address, ""
			err = t.run(ctx, n, address, root)
		} else {
			err = t.join(ctx, b, n, address)
		}
		if err != nil {
			return err
		}
	}
	return t.eventually(ctx, b, func(ctx context.Context, client *admin.Client) error {
		st, err := client.Status(ctx)
		if err != nil {
			return err
		}
		for _, g := range st.Groups {
			if len(g.Voters) != clusterPeers {
				return fmt.Errorf("group %s has %d voters", g.Name, len(g.Voters))
			}
		}
		if !st.Whole() || st.DrivesUp != clusterPeers*clusterDrives {
			return fmt.Errorf("it is not whole, with %d drives up", st.DrivesUp)
		}
		return nil
	})
}

// join starts a peer with a token of the first.
func (t *trio) join(ctx context.Context, b *bench, n int, address string) error {
	var token *admin.Token
	err := t.eventually(ctx, b, func(ctx context.Context, client *admin.Client) (err error) {
		token, err = client.Token(ctx, 0)
		return err
	})
	if err != nil {
		return err
	}
	return t.run(ctx, n, address, nil, "--join="+token.Token)
}

// eventually tries again until the first peer says yes.
func (t *trio) eventually(ctx context.Context, b *bench, try func(context.Context, *admin.Client) error) error {
	client, err := b.session.adminClient(&t.clients)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster of three peers did not come up: %w", err)
		}
	}
}

// run starts one peer.
func (t *trio) run(ctx context.Context, n int, address string, environment []string, args ...string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(t.logOf(n))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }() // the child has its own
	dir := filepath.Join(t.dir, fmt.Sprintf("p%d", n))
	for drive := 1; drive <= clusterDrives; drive++ {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("d%d", drive)), 0o700); err != nil {
			return err
		}
	}
	command := exec.CommandContext(ctx, self, append([]string{"server",
		fmt.Sprintf("--drives=%s/d{1...%d}", dir, clusterDrives), "--dir=" + filepath.Join(dir, "state"), "--s3=" + address,
		fmt.Sprintf("--name=p%d", n), fmt.Sprintf("--zone=z%d", n)}, args...)...)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = log, log
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopPatience
	if err := command.Start(); err != nil {
		return err
	}
	t.peers = append(t.peers, command)
	return nil
}

// stop ends the peers, all at once, and waits for them.
func (t *trio) stop() error {
	t.cancel()
	var err error
	for i, command := range t.peers {
		if ended := command.Wait(); ended != nil && !errors.Is(ended, context.Canceled) {
			err = errors.Join(err, fmt.Errorf("peer p%d: %w", i+1, ended))
		}
	}
	return err
}

func (t *trio) logOf(n int) string { return filepath.Join(t.dir, fmt.Sprintf("p%d.log", n)) }

// logs are the ends of the peers' logs, for an error.
func (t *trio) logs() string {
	text := ""
	for n := range t.peers {
		log, err := os.ReadFile(t.logOf(n + 1))
		if err != nil {
			log = []byte(err.Error())
		}
		text += fmt.Sprintf("p%d: %s\n", n+1, log[max(0, len(log)-logTail):])
	}
	return text
}

// freeAddress is one that nobody listens at now.
func freeAddress(host string) (string, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
