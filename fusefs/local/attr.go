package local

import (
	"maps"
	"strings"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

const (
	userXattr = "user."
	// metaHeader and missionHeader begin the two families of user metadata headers. The first is what xattrs get by
	// default; an xattr user.x-csp-meta-NAME stands for the second.
	metaHeader    = "x-amz-meta-"
	missionHeader = "x-csp-meta-"
)

// headerOf returns the header that an xattr is on S3, and whether it can be one: HTTP headers have lower-case names of
// a few characters, and values that are printable ASCII without spaces at the ends.
func headerOf(name string, value []byte) (string, bool) {
	rest, ok := strings.CutPrefix(name, userXattr)
	if !ok || rest == "" {
		return "", false
	}
	for _, c := range []byte(rest) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "", false
		}
	}
	for i, c := range value {
		if c < ' ' || c > '~' || c == ' ' && (i == 0 || i == len(value)-1) {
			return "", false
		}
	}
	if strings.HasPrefix(rest, missionHeader) {
		return rest, len(rest) > len(missionHeader)
	}
	return metaHeader + rest, true
}

// xattrOf is the way back.
func xattrOf(header string) string {
	return userXattr + strings.TrimPrefix(header, metaHeader)
}

// splitAttr divides a file's attributes into what S3 shows as user metadata and the rest.
func splitAttr(a *tree.Attr) (metadata.Attr, map[string]string) {
	out := metadata.Attr{
		Mode: a.Mode, UID: a.UID, GID: a.GID, Mtime: a.Mtime, Atime: a.Atime, Ctime: a.Ctime, Rdev: a.Rdev,
		Target: a.Target, Inode: a.Inode,
	}
	var user map[string]string
	size := 0
	for name, value := range a.Xattrs {
		header, ok := headerOf(name, value)
		if ok && size+len(header)+len(value) <= multipart.MaxUserMeta {
			if user == nil {
				user = make(map[string]string)
			}
			user[header] = string(value)
			size += len(header) + len(value)
			continue
		}
		if out.Xattrs == nil {
			out.Xattrs = make(map[string][]byte)
		}
		out.Xattrs[name] = value
	}
	return out, user
}

// info describes a version to the tree.
func (o *Objects) info(v *metadata.Version) tree.Info {
	info := tree.Info{
		Key: strings.TrimPrefix(v.Key, o.prefix), Version: tree.Version(v.ID.String()), Size: v.Size, ETag: v.ETag,
	}
	if a := v.Attr; a != nil {
		info.Attr = tree.Attr{
			Mode: a.Mode, UID: a.UID, GID: a.GID, Mtime: a.Mtime, Atime: a.Atime, Ctime: a.Ctime, Rdev: a.Rdev,
			Target: a.Target, Xattrs: maps.Clone(a.Xattrs), Inode: a.Inode,
		}
	}
	if info.Attr.Mode == 0 {
		info.Attr.Mtime = v.Modified
	}
	for header, value := range v.Meta {
		if info.Attr.Xattrs == nil {
			info.Attr.Xattrs = make(map[string][]byte)
		}
		info.Attr.Xattrs[xattrOf(header)] = []byte(value)
	}
	return info
}
