package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast/holdfast/fusefs/local"
	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
)

// reserveMount serves what mounts need beside S3.
func (c *core) reserveMount() {
	prefix, service := remote.NewService(remote.ServiceConfig{Open: c.mountObjects, Mark: c.peer.mark, Gateways: c.gateways, Log: c.peer.log})
	c.service = service
	c.face.Reserve(prefix, service, false)
}

// gateways are the URLs of all gateways that serve as this one does, this one first.
func (c *core) gateways() []string {
	m := c.watcher.Map()
	var list []string
	for _, other := range m.Members() {
		if other.S3 == "" || other.TLS != (c.peer.scheme == "https") {
			continue
		}
		url := c.peer.scheme + "://" + other.S3
		if other.ID == c.peer.id() {
			list = append([]string{url}, list...)
		} else {
			list = append(list, url)
		}
	}
	return list
}

// mountObjects is a bucket as one mount sees it. Its session is a row in the names, which every gateway finds by the
// name that the mount gave it, and which ends with its lease when the mount is at no gateway any more.
type mountObjects struct {
	*local.Objects
	core   *core
	number uint64
}

var (
	_ tree.Ender    = mountObjects{}
	_ remote.Keeper = mountObjects{}
)

// mountObjects opens a bucket below a prefix for a mount. After a restart of this process, and where another gateway had
// the mount before, the session is the same one: what the mount has under way goes on, and a change that it repeats is
// not made twice.
func (c *core) mountObjects(ctx context.Context, bucket, prefix, session string) (tree.Objects, error) {
	b, err := c.names.Bucket(ctx, bucket)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		return nil, fmt.Errorf("no such bucket %q: %w", bucket, tree.ErrNotExist)
	}
	if err != nil {
		return nil, mountError(err)
	}
	number, err := c.objects.TakeSession(ctx, "mount/"+session, remote.Lease)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", mountError(err))
	}
	objects, err := local.New(local.Config{Store: c.objects, Bucket: b.ID, Prefix: prefix, Session: number})
	if err != nil {
		return nil, err
	}
	return mountObjects{Objects: objects, core: c, number: number}, nil
}

// KeepSession implements remote.Keeper.
func (m mountObjects) KeepSession(ctx context.Context) error {
	err := m.core.objects.RenewSession(ctx, m.number)
	if errors.Is(err, metadata.ErrSessionFenced) {
		return fmt.Errorf("%w: %w", remote.ErrSessionOver, err)
	}
	return mountError(err)
}

// mountError says to a mount whether it is worth asking again, or another gateway.
func mountError(err error) error {
	if errors.Is(err, metadata.ErrUnavailable) {
		return fmt.Errorf("%w: %w", tree.ErrUnavailable, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", tree.ErrIO, err)
	}
	return nil
}
