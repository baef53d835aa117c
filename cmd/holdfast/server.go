package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
)

// serveOptions are what `up` and `server` share.
type serveOptions struct {
	dir     string
	s3      string
	name    string
	domain  string
	tlsCert string
	tlsKey  string
	memory  string
	peer    string
	gossip  string
}

func (o *serveOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.dir, "dir", defaultDir, "data `directory` of this peer: keys and caches, all of which can be made again from the drives")
	flags.StringVar(&o.s3, "s3", "127.0.0.1:9000", "`address` to serve S3 at")
	flags.StringVar(&o.peer, "peer", "", "`address` to serve other peers at (default: the host of --s3, port 9001 or a free one)")
	flags.StringVar(&o.gossip, "gossip", "", "`address` for gossip between peers, UDP and TCP (default: the host of --peer, the port above)")
	flags.StringVar(&o.name, "name", "", "`name` of this peer (default: the host's)")
	flags.StringVar(&o.domain, "domain", "", "serve buckets as BUCKET.`DOMAIN` too (virtual-hosted style; several separated by commas)")
	flags.StringVar(&o.tlsCert, "tls-cert", "", "PEM `file` with the certificate chain to serve HTTPS with")
	flags.StringVar(&o.tlsKey, "tls-key", "", "PEM `file` with its private key")
	flags.StringVar(&o.memory, "memory", "", "budget for bodies under way, such as 512MiB (default: a quarter of RAM, at most 1 GiB)")
	setting(flags, "dir", "s3", "peer", "gossip", "name", "domain", "tls-cert", "tls-key", "memory")
}

// config checks what can be checked before anything is touched.
func (o *serveOptions) config(s *session) (peer.Config, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return peer.Config{}, err
	}
	if (o.tlsCert == "") != (o.tlsKey == "") {
		return peer.Config{}, usageError(errors.New("--tls-cert and --tls-key must be set together"))
	}
	memory, err := parseBytes("--memory", o.memory)
	if err != nil {
		return peer.Config{}, err
	}
	key, err := s.config.rootKey()
	if err != nil {
		return peer.Config{}, err
	}
	return peer.Config{
		Dir: dir, Name: o.name, Listen: o.s3, Peer: o.peer, Gossip: o.gossip, Domain: o.domain, TLSCert: o.tlsCert, TLSKey: o.tlsKey, Memory: memory, RootKey: key, Version: version,
	}, nil
}

func parseBytes(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<50 {
		return 0, usageError(fmt.Errorf("%s %q is not a number of bytes such as 512MiB", flag, text))
	}
	return int64(n), nil
}

type serverOptions struct {
	serve  serveOptions
	drives []string
	zone   string
	rack   string
	join   string
}

func newServer(s *session) *cobra.Command {
	o := serverOptions{}
	cmd := &cobra.Command{
		Use:   "server --drives '/mnt/d{1...12}'",
		Short: "Run a server over your own drive directories",
		Long: `Runs a server over drive directories, best one on each device. '{1...12}' stands for the numbers from 1 to 12;
--drives may be given more than once. A cluster writes when it has six drives, and is whole with twelve.

With --join the first start joins the cluster that the token is of (` + "`holdfast cluster token`" + ` on a peer of it prints
one); '--join @FILE' reads it from a file. Later starts need no token, and pass over one. A peer that was off until its
certificate expired, or lost its record, comes back by it as the peer that it was.

Without, the first start makes a new cluster: it makes what is missing, writes an identity into every directory, and
makes the root access key (or takes HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY). Later starts know every drive
by its identity, in any order and at any path: a missing one is waited for, one of another cluster is refused, a blank
one is left alone. With up to four of its drives missing a peer alone serves; with more it waits for them.`,
		Example: "  holdfast server --drives '/mnt/d{1...12}' --dir /var/lib/holdfast --s3 0.0.0.0:9000\n" +
			"  holdfast server --drives '/mnt/d{1...4}' --dir /var/lib/holdfast --s3 10.0.0.2:9000 --peer 10.0.0.2:9001 --join @token",
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runServer(cmd.Context(), s, &o) },
	}
	o.serve.bind(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.drives, "drives", nil, "drive `directories`, such as '/mnt/d{1...12}'")
	flags.StringVar(&o.zone, "zone", "", "`zone` that this peer stands in, a failure domain")
	flags.StringVar(&o.rack, "rack", "", "`rack` that this peer stands in, a failure domain")
	flags.StringVar(&o.join, "join", "", "join `token`, or @FILE that holds it: the first start joins its cluster")
	setting(flags, "drives", "zone", "rack", "join")
	return cmd
}

func runServer(ctx context.Context, s *session, o *serverOptions) error {
	log, err := s.log.logger(s.err)
	if err != nil {
		return err
	}
	config, err := o.serve.config(s)
	if err != nil {
		return err
	}
	config.Zone, config.Rack = o.zone, o.rack
	if config.Join, err = readJoin(o.join, config.Dir); err != nil {
		return usageError(err)
	}
	if len(o.drives) == 0 {
		return usageError(errors.New("--drives names no directory; write --drives '/mnt/d{1...12}'"))
	}
	if config.Drives, err = peer.ExpandDrives(o.drives); err != nil {
		return usageError(err)
	}
	p, err := s.startPeer(ctx, config, log)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.out, "holdfast %s serves S3 at %s; keys in %s\n", version, p.Endpoint(), peer.CredentialsPath(p.Dir())); err != nil {
		return errors.Join(err, p.Close())
	}
	select {
	case <-ctx.Done():
	case <-p.Failed():
	}
	log.Info("stopping")
	return errors.Join(p.Err(), p.Close())
}

// readJoin reads a token, from a file when the text says so. Once the peer is in a cluster the file may be gone.
func readJoin(text, dir string) (string, error) {
	name, isFile := strings.CutPrefix(text, "@")
	if !isFile {
		return text, nil
	}
	token, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && peer.Known(dir) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("--join: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

func (s *session) startPeer(ctx context.Context, config peer.Config, log *slog.Logger) (*peer.Peer, error) {
	s.tuneRuntime()
	budget, err := config.MemoryBudget()
	if err != nil {
		return nil, err
	}
	s.limitMemory(budget)
	p, err := peer.Start(ctx, config, peer.Seams{FS: vfs.OS(), Now: time.Now, Log: log, Mark: true})
	if errors.Is(err, peer.ErrConfig) {
		return nil, usageError(err)
	}
	if err == nil {
		go steady(ctx)
	}
	return p, err
}
