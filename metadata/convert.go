package metadata

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/metadata/record"
)

// beyondKeys is longer than any object key and of the highest bytes.
var beyondKeys = strings.Repeat("\xff", maxKey+1)

func appendUint64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func fromTime(t time.Time) *record.Time {
	return &record.Time{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())}
}

func toTime(t *record.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t.Seconds, int64(t.Nanos)).UTC()
}

func fromID(id VersionID) *record.ID { return &record.ID{Clock: id.Clock, Random: id.Random} }

func toID(id *record.ID) VersionID { return VersionID{Clock: id.GetClock(), Random: id.GetRandom()} }

func sameID(a, b *record.ID) bool {
	return a.GetClock() == b.GetClock() && a.GetRandom() == b.GetRandom()
}

func fromUploadID(id UploadID) *record.UploadID {
	return &record.UploadID{Clock: id.Clock, Random: id.Random}
}

func toUploadID(id *record.UploadID) UploadID {
	return UploadID{Clock: id.GetClock(), Random: id.GetRandom()}
}

// fromMap gives a map as pairs, in order of names.
func fromMap[V string | []byte](m map[string]V) []*record.Pair {
	if len(m) == 0 {
		return nil
	}
	pairs := make([]*record.Pair, 0, len(m))
	for name, value := range m {
		pairs = append(pairs, &record.Pair{Name: []byte(name), Value: []byte(value)})
	}
	if len(pairs) > 1 {
		slices.SortFunc(pairs, func(a, b *record.Pair) int { return bytes.Compare(a.Name, b.Name) })
	}
	return pairs
}

func toMap[V string | []byte](pairs []*record.Pair) map[string]V {
	if len(pairs) == 0 {
		return nil
	}
	m := make(map[string]V, len(pairs))
	for _, p := range pairs {
		m[string(p.Name)] = V(p.Value)
	}
	return m
}

func fromAttr(a *Attr) *record.Attr {
	if a == nil {
		return nil
	}
	return &record.Attr{
		Mode: a.Mode, Uid: a.UID, Gid: a.GID, Rdev: a.Rdev, Target: []byte(a.Target), Xattrs: fromMap(a.Xattrs), Inode: a.Inode,
		Mtime: fromTime(a.Mtime), Atime: fromTime(a.Atime), Ctime: fromTime(a.Ctime),
	}
}

func toAttr(a *record.Attr) *Attr {
	if a == nil {
		return nil
	}
	return &Attr{
		Mode: a.Mode, UID: a.Uid, GID: a.Gid, Rdev: a.Rdev, Target: string(a.Target), Xattrs: toMap[[]byte](a.Xattrs), Inode: a.Inode,
		Mtime: toTime(a.Mtime), Atime: toTime(a.Atime), Ctime: toTime(a.Ctime),
	}
}

func fromRuns(runs []PartRun) []*record.Run {
	if len(runs) == 0 {
		return nil
	}
	out := make([]*record.Run, len(runs))
	for i, r := range runs {
		out[i] = &record.Run{First: uint32(r.First), Count: uint32(r.Count), Size: r.Size}
	}
	return out
}

func toRuns(runs []*record.Run) []PartRun {
	if len(runs) == 0 {
		return nil
	}
	out := make([]PartRun, len(runs))
	for i, r := range runs {
		out[i] = PartRun{First: int(r.First), Count: int(r.Count), Size: r.Size}
	}
	return out
}

// fromVersion takes a version apart into its record and its body.
func fromVersion(v Version) (*record.Version, *record.Body) {
	r := &record.Version{
		Id: fromID(v.ID), Null: v.Null, DeleteMarker: v.DeleteMarker, Size: v.Size, Etag: []byte(v.ETag),
		Modified: fromTime(v.Modified), Headers: fromMap(v.Headers), Meta: fromMap(v.Meta), Tags: fromMap(v.Tags), Checksums: fromMap(v.Checksums),
		ChecksumType: []byte(v.ChecksumType), Attr: fromAttr(v.Attr), Shared: v.Shared,
	}
	b := &record.Body{Inline: v.Inline, Manifest: v.Manifest}
	if len(v.Parts) > 0 {
		b.Parts, b.PartsOf, b.PartsKey = fromRuns(v.Parts), fromUploadID(v.PartsOf), []byte(v.PartsKey)
		if v.PartsKey == "" {
			b.PartsKey = []byte(v.Key)
		}
	}
	return r, b
}

// toVersion puts a version together; body is nil in listings.
func toVersion(key string, r *record.Version, body *record.Body) Version {
	v := Version{
		Key: key, ID: toID(r.Id), Null: r.Null, DeleteMarker: r.DeleteMarker, Size: r.Size, ETag: string(r.Etag),
		Modified: toTime(r.Modified), Headers: toMap[string](r.Headers), Meta: toMap[string](r.Meta),
		Tags: toMap[string](r.Tags), Checksums: toMap[string](r.Checksums),
		ChecksumType: string(r.ChecksumType), Attr: toAttr(r.Attr), Shared: r.Shared,
	}
	if body != nil {
		v.Inline, v.Manifest = body.Inline, body.Manifest
		if len(body.Parts) > 0 {
			v.Parts, v.PartsOf, v.PartsKey = toRuns(body.Parts), toUploadID(body.PartsOf), string(body.PartsKey)
		}
	}
	return v
}

func fromPart(p Part) *record.Part {
	return &record.Part{
		Size: p.Size, Etag: []byte(p.ETag), Modified: fromTime(p.Modified), Checksums: fromMap(p.Checksums), Manifest: p.Manifest,
		Inline: p.Inline, Shared: p.Shared, Adopted: p.Adopted, Rest: p.Rest,
	}
}

func toPart(number int, p *record.Part) Part {
	return Part{
		Number: number, Size: p.Size, ETag: string(p.Etag), Modified: toTime(p.Modified), Checksums: toMap[string](p.Checksums),
		Manifest: p.Manifest, Inline: p.Inline, Shared: p.Shared, Adopted: p.Adopted, Rest: p.Rest,
	}
}

func fromUpload(u Upload, session uint64) *record.Upload {
	template, _ := fromVersion(u.Template)
	return &record.Upload{
		Started: fromTime(u.Started), Owner: []byte(u.Owner), Template: template, ChecksumAlgorithm: []byte(u.ChecksumAlgorithm),
		Internal: u.Internal, Session: session,
	}
}

func toUpload(key string, id *record.UploadID, u *record.Upload) Upload {
	return Upload{
		ID: toUploadID(id), Key: key, Started: toTime(u.Started), Owner: string(u.Owner), Template: toVersion("", u.Template, nil),
		ChecksumAlgorithm: string(u.ChecksumAlgorithm), Internal: u.Internal,
	}
}

func toUsage(u *record.Usage) Usage {
	return Usage{
		Objects: u.Objects, Bytes: u.Bytes, Versions: u.Versions, VersionBytes: u.VersionBytes,
		Uploads: u.Uploads, Parts: u.Parts, PartBytes: u.PartBytes,
	}
}

func fromStage(s Stage) *record.Stage {
	version, body := fromVersion(s.Put.Version)
	version.Body = body
	r := &record.Stage{
		Bucket: uint64(s.Put.Bucket), Key: []byte(s.Put.Version.Key), Version: version, Base: fromID(s.Put.If.Base),
		NoBase: s.Put.If.NoBase, IfMatch: []byte(s.Put.If.Match), IfNoneMatch: []byte(s.Put.If.NoneMatch), Keeps: s.Put.Keeps,
		Dropped: s.Put.Dropped, AdoptsOf: fromUploadID(s.Put.AdoptsOf), AdoptsKey: []byte(s.Put.AdoptsKey), Own: s.Own,
	}
	for _, a := range s.Put.Adopts {
		r.Adopts = append(r.Adopts, &record.Adopt{Number: uint32(a.Number), Rest: a.Rest})
	}
	return r
}

func toStage(key StageKey, r *record.Stage) Stage {
	s := Stage{StageKey: key, Own: r.Own, Put: Put{
		Bucket:  BucketID(r.Bucket),
		Version: toVersion(string(r.Key), r.Version, r.Version.GetBody()),
		If:      If{Base: toID(r.Base), NoBase: r.NoBase, Match: string(r.IfMatch), NoneMatch: string(r.IfNoneMatch)},
		Keeps:   r.Keeps, Dropped: r.Dropped, AdoptsOf: toUploadID(r.AdoptsOf), AdoptsKey: string(r.AdoptsKey),
	}}
	for _, a := range r.Adopts {
		s.Put.Adopts = append(s.Put.Adopts, Adopt{Number: int(a.Number), Rest: a.Rest})
	}
	return s
}
