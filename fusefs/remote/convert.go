package remote

import (
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/holdfast/holdfast/fusefs/remote/mountpb"
	"github.com/holdfast/holdfast/fusefs/tree"
)

func stampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func attrOf(a tree.Attr) *mountpb.Attr {
	out := &mountpb.Attr{
		Mode: a.Mode, Uid: a.UID, Gid: a.GID, Rdev: a.Rdev, Target: []byte(a.Target), Inode: a.Inode,
		Mtime: stampOf(a.Mtime), Atime: stampOf(a.Atime), Ctime: stampOf(a.Ctime),
	}
	for _, name := range slices.Sorted(maps.Keys(a.Xattrs)) {
		out.Xattrs = append(out.Xattrs, &mountpb.Xattr{Name: []byte(name), Value: a.Xattrs[name]})
	}
	return out
}

func attrFrom(a *mountpb.Attr) tree.Attr {
	out := tree.Attr{
		Mode: a.GetMode(), UID: a.GetUid(), GID: a.GetGid(), Rdev: a.GetRdev(), Target: string(a.GetTarget()), Inode: a.GetInode(),
		Mtime: timeOf(a.GetMtime()), Atime: timeOf(a.GetAtime()), Ctime: timeOf(a.GetCtime()),
	}
	if len(a.GetXattrs()) > 0 {
		out.Xattrs = make(map[string][]byte, len(a.GetXattrs()))
		for _, x := range a.GetXattrs() {
			out.Xattrs[string(x.GetName())] = x.GetValue()
		}
	}
	return out
}

func infoOf(i tree.Info) *mountpb.Info {
	return &mountpb.Info{Key: []byte(i.Key), Version: string(i.Version), Size: i.Size, Etag: i.ETag, Attr: attrOf(i.Attr)}
}

func infoFrom(i *mountpb.Info) tree.Info {
	return tree.Info{
		Key: string(i.GetKey()), Version: tree.Version(i.GetVersion()), Size: i.GetSize(), ETag: i.GetEtag(), Attr: attrFrom(i.GetAttr()),
	}
}

func maybeInfoOf(i *tree.Info) *mountpb.Info {
	if i == nil {
		return nil
	}
	return infoOf(*i)
}

func maybeInfoFrom(i *mountpb.Info) *tree.Info {
	if i == nil {
		return nil
	}
	out := infoFrom(i)
	return &out
}

func fileOf(session string, seq uint64, f tree.File) *mountpb.FileRequest {
	out := &mountpb.FileRequest{
		Session: session, Seq: seq, Key: []byte(f.Key), Upload: []byte(f.Upload), Data: f.Data, Attr: attrOf(f.Attr),
		Absent: f.Cond.Absent, Base: string(f.Cond.Base), Inode: f.Inode, Crc32C: crc32.Checksum(f.Data, castagnoli),
	}
	for _, p := range f.Pieces {
		out.Pieces = append(out.Pieces, &mountpb.Piece{Part: int32(p.Part), Base: p.Base, Hole: p.Hole, Off: p.Off, Len: p.Len})
	}
	return out
}

// intact checks the data of a request against its CRC32C.
func intact(f *mountpb.FileRequest) error {
	if crc32.Checksum(f.GetData(), castagnoli) != f.GetCrc32C() {
		return errDamaged
	}
	return nil
}

func fileFrom(f *mountpb.FileRequest) tree.File {
	out := tree.File{
		Key: string(f.GetKey()), Upload: tree.Upload(f.GetUpload()), Data: f.GetData(), Attr: attrFrom(f.GetAttr()),
		Cond: tree.Cond{Absent: f.GetAbsent(), Base: tree.Version(f.GetBase())}, Inode: f.GetInode(),
	}
	for _, p := range f.GetPieces() {
		out.Pieces = append(out.Pieces, tree.Piece{Part: int(p.GetPart()), Base: p.GetBase(), Hole: p.GetHole(), Off: p.GetOff(), Len: p.GetLen()})
	}
	return out
}
