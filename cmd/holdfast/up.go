package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/peer"
	"github.com/holdfast/holdfast/fusefs"
)

// homeBucket is what `up --mount` shows. It is made on the first start.
const homeBucket = "home"

// upDrives is one for each shard of a chunk.
const upDrives = 12

type upOptions struct {
	serve serveOptions
	mount string
}

func newUp(s *session) *cobra.Command {
	o := upOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything on this machine",
		Long: `Runs a server with twelve drive directories, DIR/drives/d1 to d12, on this machine, and with --mount shows
the bucket "home" as a directory. The first start makes the directories and the root access key.

Twelve directories on one device survive the loss of any four directories, and of no device: put them on
twelve devices with ` + "`holdfast server --drives`" + ` for more. Ctrl-C unmounts and stops cleanly.`,
		Example: "  holdfast up\n  holdfast up --mount ./mnt\n  holdfast up --dir /srv/holdfast --s3 0.0.0.0:9000",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runUp(cmd.Context(), s, &o) },
	}
	o.serve.bind(cmd)
	cmd.Flags().StringVar(&o.mount, "mount", "", "`directory` to show the bucket home at (made when missing)")
	setting(cmd.Flags(), "mount")
	return cmd
}

func runUp(ctx context.Context, s *session, o *upOptions) error {
	log, err := s.log.logger(s.err)
	if err != nil {
		return err
	}
	config, err := o.serve.config(s)
	if err != nil {
		return err
	}
	for i := range upDrives {
		config.Drives = append(config.Drives, filepath.Join(config.Dir, "drives", fmt.Sprintf("d%d", i+1)))
	}
	at := ""
	if o.mount != "" {
		if at, err = mountPoint(ctx, o.mount); err != nil {
			return err
		}
		config.HomeBucket = homeBucket
	}
	p, err := s.startPeer(ctx, config, log)
	if err != nil {
		return err
	}
	return errors.Join(s.serveUp(ctx, p, o, at, log), p.Close())
}

// serveUp says what runs, mounts, and returns when ctx ends or the mount's process does.
func (s *session) serveUp(ctx context.Context, p *peer.Peer, o *upOptions, at string, log *slog.Logger) error {
	if err := p.WaitReady(ctx); err != nil {
		return ignoreStop(ctx, err)
	}
	var child *mountChild
	if at != "" {
		var err error
		switch child, err = s.startMount(p, &o.serve, at); {
		case errors.Is(err, errNoFuse):
			log.Warn("serving S3 alone", "err", err)
		case err != nil:
			return ignoreStop(ctx, err)
		}
	}
	if err := s.sayUp(p, o, child); err != nil {
		return errors.Join(err, child.stop())
	}
	select {
	case <-ctx.Done():
		log.Info("stopping")
		return child.stop()
	case <-child.ended():
	}
	if err := child.err(); err != nil {
		return fmt.Errorf("the mount at %s ended: %w", at, err)
	}
	// Somebody unmounted it, which says nothing about S3.
	log.Info("the mount was taken away; serving S3 alone until Ctrl-C", "dir", at)
	<-ctx.Done()
	log.Info("stopping")
	return nil
}

// ignoreStop passes over the error of an operation that ended because the program is to stop.
func ignoreStop(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *session) sayUp(p *peer.Peer, o *upOptions, child *mountChild) error {
	dir := ""
	if o.serve.dir != defaultDir {
		dir = " --dir " + o.serve.dir
	}
	endpoint := ""
	if p.Endpoint() != defaultEndpoint {
		endpoint = " --endpoint " + p.Endpoint()
	}
	if o.serve.tlsCert != "" {
		endpoint += " --ca " + o.serve.tlsCert
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nholdfast %s is up\n", version)
	fmt.Fprintf(&b, "  S3       %s   (path style, any region)\n", p.Endpoint())
	fmt.Fprintf(&b, "  keys     %s   (root access key %s)\n", peer.CredentialsPath(p.Dir()), p.AccessKey())
	fmt.Fprintf(&b, "  drives   %s\n", p.Summary())
	if child != nil {
		fmt.Fprintf(&b, "  mount    %s   (bucket %s)\n", child.at, homeBucket)
	}
	fmt.Fprintf(&b, "\nTry, in another terminal:\n")
	if child != nil {
		fmt.Fprintf(&b, "  cp -a /usr/share/doc %s/\n  ls -l %s/doc\n", child.at, child.at)
	}
	fmt.Fprintf(&b, "  %s status%s%s\n", s.self, endpoint, dir)
	fmt.Fprintf(&b, "  eval \"$(%s creds%s%s)\"\n", s.self, endpoint, dir)
	fmt.Fprintf(&b, "  aws --endpoint-url %s s3 ls\n", p.Endpoint())
	fmt.Fprintf(&b, "\nCtrl-C stops it.\n")
	_, err := fmt.Fprint(s.out, b.String())
	return err
}

// mountPoint makes the directory when it is missing and returns its absolute path.
func mountPoint(ctx context.Context, dir string) (string, error) {
	at, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := clearDead(ctx, at); err != nil {
		return "", err
	}
	info, err := os.Stat(at)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(at, 0o755); err != nil {
			return "", fmt.Errorf("mount point: %w", err)
		}
	case err != nil:
		return "", fmt.Errorf("mount point: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("mount point %s is not a directory", at)
	}
	// Said here, a directory that cannot be used stops `up` before it makes anything.
	return fusefs.CheckDir(at)
}
