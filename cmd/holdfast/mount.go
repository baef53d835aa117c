package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast/holdfast/fusefs"
	"github.com/holdfast/holdfast/fusefs/cache"
	"github.com/holdfast/holdfast/fusefs/remote"
)

// unmountPatience is how long a mount that is told to stop waits for programs to let go of it. Then it is hidden, and
// ends when they do.
const unmountPatience = 10 * time.Second

type mountOptions struct {
	client     clientOptions
	readOnly   bool
	uid, gid   string
	umask      string
	allowOther bool
	memory     string
	options    []string
	daemon     bool
	// readyFD is where a child tells its parent that the mount is up; 0 for none.
	readyFD int
}

func newMount(s *session) *cobra.Command {
	o := mountOptions{}
	cmd := &cobra.Command{
		Use:   "mount BUCKET[/PREFIX] DIR",
		Short: "Show a bucket as a directory",
		Long: `Shows a bucket, or what is below a prefix of it, as a directory. It needs an access key and nothing else: the
gateway may be on another machine. Stays in the foreground until Ctrl-C or ` + "`holdfast umount DIR`" + `; --daemon returns
when the directory is there.

A mount uses one gateway of the cluster, and goes on at another one when that fails: no program gets an error, and no
change is made twice. It learns of the others from the one it uses. Name several (--endpoint again, or with commas between
them), so that it can start while one of them is down. All of them are http, or all https with the same --ca.

For fstab, link the binary to /sbin/mount.holdfast and name the directory whose credentials file holds the key:
  home  /mnt/home  holdfast  endpoint=http://127.0.0.1:9000,dir=/var/lib/holdfast,_netdev,nofail  0 0
Further gateways are further endpoint= there.`,
		Example: "  holdfast mount home ./mnt\n  holdfast mount --read-only photos/2026/ /srv/photos\n" +
			"  holdfast mount --endpoint http://a:9000,http://b:9000 home /mnt/home",
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.absorb(); err != nil {
				return err
			}
			return runMount(cmd.Context(), s, &o, args[0], args[1])
		},
	}
	o.client.bind(cmd)
	flags := cmd.Flags()
	several(flags.Lookup("endpoint"))
	flags.BoolVar(&o.readOnly, "read-only", false, "allow no changes")
	flags.StringVar(&o.uid, "uid", "", "`owner` of files that no mount has touched (default: you)")
	flags.StringVar(&o.gid, "gid", "", "`group` of files that no mount has touched (default: yours)")
	flags.StringVar(&o.umask, "umask", "", "permission bits, in octal, that such files lack (default: 022)")
	flags.BoolVar(&o.allowOther, "allow-other", os.Geteuid() == 0, "let other users in")
	flags.StringVar(&o.memory, "memory", "", "budget for data not yet written, such as 256MiB")
	flags.StringSliceVarP(&o.options, "options", "o", nil, "mount `options`, also those of fstab: ro, uid=, gid=, umask=, endpoint=, dir=, ...")
	flags.BoolVar(&o.daemon, "daemon", false, "return when the directory is there, and serve it in the background")
	flags.IntVar(&o.readyFD, "ready-fd", 0, "file descriptor to tell a parent process on")
	// The only error is a flag that does not exist.
	if err := flags.MarkHidden("ready-fd"); err != nil {
		panic(err)
	}
	setting(flags, "read-only", "uid", "gid", "umask", "allow-other", "memory")
	return cmd
}

// endpoints are the URLs of gateways, with commas between them: a flag that may be given again, which adds to it.
type endpoints struct {
	pflag.Value
	given bool
}

// several lets the flag of one gateway name several.
func several(flag *pflag.Flag) {
	flag.Value, flag.Usage = &endpoints{Value: flag.Value}, "`URL` of a gateway; may be given again, or several with commas between them"
}

// Set implements pflag.Value. The first takes the place of the default.
func (e *endpoints) Set(text string) error {
	if e.given {
		text = e.String() + "," + text
	}
	e.given = true
	return e.Value.Set(text)
}

// isURL tells the second of several endpoints, which a comma divided, from an option.
func isURL(option string) bool {
	return strings.HasPrefix(option, "http://") || strings.HasPrefix(option, "https://")
}

// gateways are the endpoints one by one.
func (o *mountOptions) gateways() ([]string, error) {
	var all []string
	for _, e := range strings.Split(o.client.endpoint, ",") {
		if e = strings.TrimSpace(e); e == "" {
			continue
		}
		if len(all) > 0 && strings.HasPrefix(e, "https:") != strings.HasPrefix(all[0], "https:") {
			return nil, usageError(fmt.Errorf("endpoints %s: http and https are not mixed", o.client.endpoint))
		}
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, usageError(errors.New("--endpoint names no gateway"))
	}
	return all, nil
}

// through is how a client reaches one of the gateways.
func (o *mountOptions) through(gateway string) *clientOptions {
	client := o.client
	client.endpoint = gateway
	return &client
}

// absorb takes what -o says of our own options; the rest goes to the kernel.
func (o *mountOptions) absorb() error {
	var rest []string
	var gateways []string
	for _, option := range o.options {
		if isURL(option) && len(gateways) > 0 {
			gateways = append(gateways, option)
			continue
		}
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "ro":
			o.readOnly = true
		case "uid":
			o.uid = value
		case "gid":
			o.gid = value
		case "umask":
			o.umask = value
		case "allow_other":
			o.allowOther = true
		case "memory":
			o.memory = value
		case "endpoint":
			gateways = append(gateways, value)
		case "dir":
			o.client.dir = value
		case "ca":
			o.client.ca = value
		case "", "rw", "defaults", "auto", "noauto", "user", "users", "nofail", "_netdev", "nouser", "exec", "suid", "dev":
			// of fstab and systemd, nothing to us
		default:
			if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "comment") {
				continue
			}
			rest = append(rest, option)
		}
	}
	o.options = rest
	if len(gateways) > 0 {
		o.client.endpoint = strings.Join(gateways, ",")
	}
	return nil
}

func runMount(ctx context.Context, s *session, o *mountOptions, source, dir string) error {
	at, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := clearDead(ctx, at); err != nil {
		return err
	}
	if _, err := os.Stat(at); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if o.daemon {
		return s.daemonize(o, source, at)
	}
	notify := newNotifier(o.readyFD)
	err = s.serveMount(ctx, o, source, at, notify)
	return errors.Join(err, notify.tell(err))
}

// clearDead takes away a mount of ours whose process died, which would otherwise keep its directory for ever.
func clearDead(ctx context.Context, at string) error {
	if _, err := os.Stat(at); !errors.Is(err, syscall.ENOTCONN) {
		return nil
	}
	ours, err := isHoldfastMount(at)
	if err != nil || !ours {
		return err
	}
	return unmount(ctx, at, true)
}

// serveMount mounts and serves until ctx ends or somebody unmounts.
func (s *session) serveMount(ctx context.Context, o *mountOptions, source, at string, notify *notifier) error {
	s.tuneRuntime()
	log, err := s.log.logger(s.err)
	if err != nil {
		return err
	}
	if o.readyFD > 0 {
		// The parent stops its mount itself; a Ctrl-C reaches every process of the terminal.
		signal.Ignore(os.Interrupt)
	}
	config, err := o.config(source, at, log)
	if err != nil {
		return err
	}
	p, err := parseRemote(source)
	if err != nil {
		return err
	}
	if err := s.needBucket(ctx, o, p.bucket); err != nil {
		return err
	}
	client, err := s.mountClient(ctx, o, p, log)
	if err != nil {
		return err
	}
	config.Objects = cache.New(client, client.Mark)
	mounted, err := fusefs.Mount(ctx, *config)
	if err != nil {
		return errors.Join(err, closeClient(ctx, client))
	}
	if err := s.sayMounted(o, p, at, notify); err != nil {
		return errors.Join(err, stopMount(mounted, log), closeClient(ctx, client))
	}
	select {
	case <-ctx.Done():
		err = stopMount(mounted, log)
	case <-mounted.Done():
		err = mounted.Wait()
	}
	return errors.Join(err, closeClient(ctx, client))
}

// closeClient says goodbye to the gateway, also when ctx has ended.
func closeClient(ctx context.Context, client *remote.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountPatience)
	defer cancel()
	return client.Close(ctx)
}

func stopMount(m *fusefs.Mounted, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), unmountPatience)
	defer cancel()
	err := m.Unmount(ctx)
	if !errors.Is(err, fusefs.ErrBusy) {
		return err
	}
	log.Warn("programs still use the mount; it is hidden now and ends when they close their files", "dir", m.Dir())
	if err := m.Detach(); err != nil {
		return err
	}
	select {
	case <-m.Done():
		return m.Wait()
	case <-time.After(unmountPatience):
		return fmt.Errorf("%s: %w: files that are still open lose what was not written", m.Dir(), fusefs.ErrBusy)
	}
}

func (s *session) sayMounted(o *mountOptions, p place, at string, notify *notifier) error {
	if o.readyFD > 0 {
		return notify.tell(nil)
	}
	how := ""
	if o.readOnly {
		how = " (read-only)"
	}
	_, err := fmt.Fprintf(s.out, "%s is at %s%s. Ctrl-C, or: holdfast umount %s\n", p, at, how, at)
	return err
}

// needBucket asks the gateways for the bucket until one of them knows.
func (s *session) needBucket(ctx context.Context, o *mountOptions, bucket string) error {
	gateways, err := o.gateways()
	if err != nil {
		return err
	}
	var failures []error
	for _, gateway := range gateways {
		err := s.askForBucket(ctx, o.through(gateway), bucket)
		var answer *exitCode
		if err == nil || errors.As(err, &answer) || ctx.Err() != nil {
			return err
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// headPatience is how long a gateway may take to say whether there is a bucket while there are others to ask.
const headPatience = 15 * time.Second

func (s *session) askForBucket(ctx context.Context, o *clientOptions, bucket string) error {
	client, err := s.s3Client(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, headPatience)
	defer cancel()
	_, err = client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &bucket})
	err = s3Error(o.endpoint, err)
	var code *exitCode
	if errors.As(err, &code) && code.code == exitNotFound {
		err = &exitCode{exitNotFound, errors.New("no such bucket; make it with `holdfast bucket create`")}
	}
	return describe("bucket "+bucket, err)
}

func (s *session) mountClient(ctx context.Context, o *mountOptions, p place, log *slog.Logger) (*remote.Client, error) {
	key, err := s.config.clientKey(o.client.dir)
	if err != nil {
		return nil, err
	}
	gateways, err := o.gateways()
	if err != nil {
		return nil, err
	}
	for _, gateway := range gateways[1:] { // each is checked, with the name of the flag
		if _, err := o.through(gateway).transport(); err != nil {
			return nil, err
		}
	}
	transport, err := o.through(gateways[0]).transport()
	if err != nil {
		return nil, err
	}
	onlyHTTP1(transport)
	prefix := p.key
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return remote.New(ctx, remote.Config{
		Endpoints: gateways, AccessKey: key.AccessKey, SecretKey: string(key.Secret),
		Bucket: p.bucket, Prefix: prefix, Region: region, Transport: transport, Log: log,
	})
}

// onlyHTTP1 gives each request a connection of its own. HTTP/2 has no pipes, and one of its connections that leads
// nowhere would hold up everything.
func onlyHTTP1(transport *http.Transport) {
	transport.ForceAttemptHTTP2, transport.Protocols = false, new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
}

// config turns the options into the mount's, without its objects.
func (o *mountOptions) config(source, at string, log *slog.Logger) (*fusefs.Config, error) {
	memory, err := parseBytes("--memory", o.memory)
	if err != nil {
		return nil, err
	}
	config := &fusefs.Config{
		Dir: at, Source: "holdfast:" + strings.TrimPrefix(source, scheme), AllowOther: &o.allowOther, ReadOnly: o.readOnly,
		Memory: memory, Options: o.options, Log: log,
	}
	for _, number := range []struct {
		flag, text string
		base       int
		into       **uint32
	}{{"--uid", o.uid, 10, &config.UID}, {"--gid", o.gid, 10, &config.GID}, {"--umask", o.umask, 8, &config.Umask}} {
		if number.text == "" {
			continue
		}
		n, err := strconv.ParseUint(number.text, number.base, 32)
		if err != nil {
			return nil, usageError(fmt.Errorf("%s %q is not a number", number.flag, number.text))
		}
		*number.into = new(uint32(n))
	}
	return config, nil
}
