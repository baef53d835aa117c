package remote

import (
	"context"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/remote/mountpb/mountpbconnect"
	"github.com/holdfast/holdfast/fusefs/tree"
)

var (
	_ tree.Objects = (*Client)(nil)
	_ tree.Looker  = (*Client)(nil)
)

type service = mountpbconnect.MountServiceClient

func (c *Client) key(key string) *connect.Request[mountpb.KeyRequest] {
	return connect.NewRequest(&mountpb.KeyRequest{Session: c.session, Key: []byte(key)})
}

// Stat implements tree.Objects.
func (c *Client) Stat(ctx context.Context, key string) (tree.Info, error) {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Info], error) {
		return s.Stat(ctx, c.key(key))
	})
	if err != nil {
		return tree.Info{}, err
	}
	return infoFrom(res), nil
}

// Look implements tree.Looker.
func (c *Client) Look(ctx context.Context, key string) (tree.Found, error) {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Found], error) {
		return s.Look(ctx, c.key(key))
	})
	if err != nil {
		return tree.Found{}, err
	}
	return tree.Found{File: maybeInfoFrom(res.GetFile()), Dir: res.GetDir(), Marker: maybeInfoFrom(res.GetMarker())}, nil
}

// Exists implements tree.Objects.
func (c *Client) Exists(ctx context.Context, prefix string) (bool, error) {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.ExistsResponse], error) {
		return s.Exists(ctx, c.key(prefix))
	})
	return res.GetExists(), err
}

// List implements tree.Objects.
func (c *Client) List(ctx context.Context, prefix, after string, limit int) (tree.Listing, error) {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Listing], error) {
		return s.List(ctx, connect.NewRequest(&mountpb.ListRequest{
			Session: c.session, Prefix: []byte(prefix), After: []byte(after), Max: int32(limit),
		}))
	})
	if err != nil {
		return tree.Listing{}, err
	}
	out := tree.Listing{Next: string(res.GetNext()), Truncated: res.GetTruncated()}
	for _, e := range res.GetEntries() {
		out.Entries = append(out.Entries, infoFrom(e))
	}
	for _, p := range res.GetPrefixes() {
		out.Prefixes = append(out.Prefixes, string(p))
	}
	return out, nil
}

// Space implements tree.Objects.
func (c *Client) Space(ctx context.Context) (tree.Space, error) {
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.SpaceResponse], error) {
		return s.Space(ctx, c.key(""))
	})
	return tree.Space{Total: res.GetTotal(), Free: res.GetFree(), Objects: res.GetObjects()}, err
}

// Begin implements tree.Objects.
func (c *Client) Begin(ctx context.Context, key string) (tree.Upload, error) {
	req := connect.NewRequest(&mountpb.ChangeRequest{Session: c.session, Seq: c.nextSeq(), Key: []byte(key)})
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.BeginResponse], error) {
		return s.Begin(ctx, req)
	})
	return tree.Upload(res.GetUpload()), err
}

// Abort implements tree.Objects.
func (c *Client) Abort(ctx context.Context, key string, up tree.Upload) error {
	req := connect.NewRequest(&mountpb.AbortRequest{Session: c.session, Seq: c.nextSeq(), Key: []byte(key), Upload: []byte(up)})
	_, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.Abort(ctx, req)
	})
	return err
}

// Stage implements tree.Objects.
func (c *Client) Stage(ctx context.Context, f tree.File) error {
	req := connect.NewRequest(fileOf(c.session, c.nextSeq(), f))
	_, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.Stage(ctx, req)
	})
	return err
}

// Discard implements tree.Objects.
func (c *Client) Discard(ctx context.Context, key string, inode uint64) error {
	req := connect.NewRequest(&mountpb.DiscardRequest{Session: c.session, Seq: c.nextSeq(), Key: []byte(key), Inode: inode})
	_, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.Discard(ctx, req)
	})
	return err
}

// Publish implements tree.Objects.
func (c *Client) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	req := connect.NewRequest(fileOf(c.session, c.nextSeq(), f))
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Info], error) {
		return s.Publish(ctx, req)
	})
	return infoFrom(res), err
}

// SetAttr implements tree.Objects.
func (c *Client) SetAttr(ctx context.Context, key string, version tree.Version, attr tree.Attr) (tree.Info, error) {
	req := connect.NewRequest(&mountpb.SetAttrRequest{
		Session: c.session, Seq: c.nextSeq(), Key: []byte(key), Version: string(version), Attr: attrOf(attr),
	})
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Info], error) {
		return s.SetAttr(ctx, req)
	})
	return infoFrom(res), err
}

func (c *Client) rename(from, to string, noReplace bool) *connect.Request[mountpb.RenameRequest] {
	return connect.NewRequest(&mountpb.RenameRequest{
		Session: c.session, Seq: c.nextSeq(), From: []byte(from), To: []byte(to), NoReplace: noReplace,
	})
}

// Rename implements tree.Objects.
func (c *Client) Rename(ctx context.Context, from, to string, noReplace bool) (tree.Info, error) {
	req := c.rename(from, to, noReplace)
	res, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Info], error) {
		return s.Rename(ctx, req)
	})
	return infoFrom(res), err
}

// RenamePrefix implements tree.Objects.
func (c *Client) RenamePrefix(ctx context.Context, from, to string) error {
	req := c.rename(from, to, false)
	_, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.RenamePrefix(ctx, req)
	})
	return err
}

// Remove implements tree.Objects.
func (c *Client) Remove(ctx context.Context, key string, empty bool) error {
	req := connect.NewRequest(&mountpb.RemoveRequest{Session: c.session, Seq: c.nextSeq(), Key: []byte(key), Empty: empty})
	_, err := call(ctx, c, func(ctx context.Context, s service) (*connect.Response[mountpb.Empty], error) {
		return s.Remove(ctx, req)
	})
	return err
}
