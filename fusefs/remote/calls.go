package remote

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/tree"
)

// ask runs a question of a session.
func ask[Res any](ctx context.Context, s *Service, id string, fn func(tree.Objects) (*Res, error)) (*connect.Response[Res], error) {
	sess, err := s.session(ctx, id)
	if err != nil {
		return nil, toWire(err)
	}
	res, err := fn(sess.objects)
	if err != nil {
		return nil, toWire(err)
	}
	return connect.NewResponse(res), nil
}

// change runs a change of a session once.
func change[Res any](
	ctx context.Context, s *Service, id string, seq uint64,
	fn func(context.Context, tree.Objects) (tree.Info, string, error), result func(tree.Info, string) *Res,
) (*connect.Response[Res], error) {
	sess, err := s.session(ctx, id)
	if err != nil {
		return nil, toWire(err)
	}
	info, text, err := sess.once(ctx, seq, func(ctx context.Context) (tree.Info, string, error) { return fn(ctx, sess.objects) })
	if err != nil {
		return nil, toWire(err)
	}
	return connect.NewResponse(result(info, text)), nil
}

func nothing(tree.Info, string) *mountpb.Empty { return &mountpb.Empty{} }

func version(i tree.Info, _ string) *mountpb.Info { return infoOf(i) }

// Stat implements the service.
func (s *Service) Stat(ctx context.Context, r *connect.Request[mountpb.KeyRequest]) (*connect.Response[mountpb.Info], error) {
	return ask(ctx, s, r.Msg.GetSession(), func(o tree.Objects) (*mountpb.Info, error) {
		info, err := o.Stat(ctx, string(r.Msg.GetKey()))
		return infoOf(info), err
	})
}

// Look implements the service: three questions here cost less than three round trips.
func (s *Service) Look(ctx context.Context, r *connect.Request[mountpb.KeyRequest]) (*connect.Response[mountpb.Found], error) {
	return ask(ctx, s, r.Msg.GetSession(), func(o tree.Objects) (*mountpb.Found, error) {
		found, err := look(ctx, o, string(r.Msg.GetKey()))
		return &mountpb.Found{File: maybeInfoOf(found.File), Dir: found.Dir, Marker: maybeInfoOf(found.Marker)}, err
	})
}

func look(ctx context.Context, o tree.Objects, key string) (tree.Found, error) {
	if l, ok := o.(tree.Looker); ok {
		return l.Look(ctx, key)
	}
	var found tree.Found
	var err error
	if key != "" {
		if found.File, err = statMaybe(ctx, o, key); err != nil {
			return found, err
		}
	}
	if found.Marker, err = statMaybe(ctx, o, key+"/"); err != nil || found.Marker != nil {
		found.Dir = err == nil
		return found, err
	}
	found.Dir, err = o.Exists(ctx, key+"/")
	return found, err
}

func statMaybe(ctx context.Context, o tree.Objects, key string) (*tree.Info, error) {
	info, err := o.Stat(ctx, key)
	if errors.Is(err, tree.ErrNotExist) || errors.Is(err, tree.ErrNameTooLong) {
		return nil, nil
	}
	return &info, err
}

// Exists implements the service.
func (s *Service) Exists(ctx context.Context, r *connect.Request[mountpb.KeyRequest]) (*connect.Response[mountpb.ExistsResponse], error) {
	return ask(ctx, s, r.Msg.GetSession(), func(o tree.Objects) (*mountpb.ExistsResponse, error) {
		ok, err := o.Exists(ctx, string(r.Msg.GetKey()))
		return &mountpb.ExistsResponse{Exists: ok}, err
	})
}

// List implements the service.
func (s *Service) List(ctx context.Context, r *connect.Request[mountpb.ListRequest]) (*connect.Response[mountpb.Listing], error) {
	const most = 10_000 // a page of names and attributes stays below maxMessage
	return ask(ctx, s, r.Msg.GetSession(), func(o tree.Objects) (*mountpb.Listing, error) {
		page, err := o.List(ctx, string(r.Msg.GetPrefix()), string(r.Msg.GetAfter()), min(int(r.Msg.GetMax()), most))
		if err != nil {
			return nil, err
		}
		out := &mountpb.Listing{Next: []byte(page.Next), Truncated: page.Truncated}
		for _, e := range page.Entries {
			out.Entries = append(out.Entries, infoOf(e))
		}
		for _, p := range page.Prefixes {
			out.Prefixes = append(out.Prefixes, []byte(p))
		}
		return out, nil
	})
}

// Space implements the service.
func (s *Service) Space(ctx context.Context, r *connect.Request[mountpb.KeyRequest]) (*connect.Response[mountpb.SpaceResponse], error) {
	return ask(ctx, s, r.Msg.GetSession(), func(o tree.Objects) (*mountpb.SpaceResponse, error) {
		sp, err := o.Space(ctx)
		return &mountpb.SpaceResponse{Total: sp.Total, Free: sp.Free, Objects: sp.Objects}, err
	})
}

// OpenReader implements the service.
func (s *Service) OpenReader(ctx context.Context, r *connect.Request[mountpb.OpenReaderRequest]) (*connect.Response[mountpb.OpenReaderResponse], error) {
	sess, err := s.session(ctx, r.Msg.GetSession())
	if err != nil {
		return nil, toWire(err)
	}
	// The reader lives longer than this request.
	rd, err := sess.objects.Open(context.WithoutCancel(ctx), string(r.Msg.GetKey()), tree.Version(r.Msg.GetVersion()))
	if err != nil {
		return nil, toWire(err)
	}
	out := &mountpb.OpenReaderResponse{Info: infoOf(rd.Info())}
	if size := rd.Info().Size; size <= maxHead {
		out.Head = make([]byte, size)
		n, err := rd.ReadAt(out.Head, 0)
		if err != nil && (!errors.Is(err, io.EOF) || int64(n) < size) {
			return nil, toWire(errors.Join(err, rd.Close()))
		}
		return connect.NewResponse(out), toWire(rd.Close())
	}
	if out.Reader, err = sess.addReader(rd); err != nil {
		return nil, toWire(errors.Join(err, rd.Close()))
	}
	return connect.NewResponse(out), nil
}

// CloseReader implements the service.
func (s *Service) CloseReader(ctx context.Context, r *connect.Request[mountpb.CloseReaderRequest]) (*connect.Response[mountpb.Empty], error) {
	sess, err := s.session(ctx, r.Msg.GetSession())
	if err != nil {
		return connect.NewResponse(&mountpb.Empty{}), nil // it ended with the session
	}
	return connect.NewResponse(&mountpb.Empty{}), toWire(sess.closeReader(r.Msg.GetReader()))
}

// Begin implements the service.
func (s *Service) Begin(ctx context.Context, r *connect.Request[mountpb.ChangeRequest]) (*connect.Response[mountpb.BeginResponse], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		up, err := o.Begin(ctx, string(m.GetKey()))
		return tree.Info{}, string(up), err
	}, func(_ tree.Info, up string) *mountpb.BeginResponse { return &mountpb.BeginResponse{Upload: []byte(up)} })
}

// Abort implements the service.
func (s *Service) Abort(ctx context.Context, r *connect.Request[mountpb.AbortRequest]) (*connect.Response[mountpb.Empty], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		return tree.Info{}, "", o.Abort(ctx, string(m.GetKey()), tree.Upload(m.GetUpload()))
	}, nothing)
}

// Stage implements the service.
func (s *Service) Stage(ctx context.Context, r *connect.Request[mountpb.FileRequest]) (*connect.Response[mountpb.Empty], error) {
	m := r.Msg
	if err := intact(m); err != nil {
		return nil, toWire(err)
	}
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		return tree.Info{}, "", o.Stage(ctx, fileFrom(m))
	}, nothing)
}

// Discard implements the service.
func (s *Service) Discard(ctx context.Context, r *connect.Request[mountpb.DiscardRequest]) (*connect.Response[mountpb.Empty], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		return tree.Info{}, "", o.Discard(ctx, string(m.GetKey()), m.GetInode())
	}, nothing)
}

// Publish implements the service.
func (s *Service) Publish(ctx context.Context, r *connect.Request[mountpb.FileRequest]) (*connect.Response[mountpb.Info], error) {
	m := r.Msg
	if err := intact(m); err != nil {
		return nil, toWire(err)
	}
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		info, err := o.Publish(ctx, fileFrom(m))
		return info, "", err
	}, version)
}

// SetAttr implements the service.
func (s *Service) SetAttr(ctx context.Context, r *connect.Request[mountpb.SetAttrRequest]) (*connect.Response[mountpb.Info], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		info, err := o.SetAttr(ctx, string(m.GetKey()), tree.Version(m.GetVersion()), attrFrom(m.GetAttr()))
		return info, "", err
	}, version)
}

// Rename implements the service.
func (s *Service) Rename(ctx context.Context, r *connect.Request[mountpb.RenameRequest]) (*connect.Response[mountpb.Info], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		info, err := o.Rename(ctx, string(m.GetFrom()), string(m.GetTo()), m.GetNoReplace())
		return info, "", err
	}, version)
}

// RenamePrefix implements the service.
func (s *Service) RenamePrefix(ctx context.Context, r *connect.Request[mountpb.RenameRequest]) (*connect.Response[mountpb.Empty], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		return tree.Info{}, "", o.RenamePrefix(ctx, string(m.GetFrom()), string(m.GetTo()))
	}, nothing)
}

// Remove implements the service.
func (s *Service) Remove(ctx context.Context, r *connect.Request[mountpb.RemoveRequest]) (*connect.Response[mountpb.Empty], error) {
	m := r.Msg
	return change(ctx, s, m.GetSession(), m.GetSeq(), func(ctx context.Context, o tree.Objects) (tree.Info, string, error) {
		return tree.Info{}, "", o.Remove(ctx, string(m.GetKey()), m.GetEmpty())
	}, nothing)
}
