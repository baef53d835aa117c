package fusefs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/holdfast/holdfast/fusefs/tree"
)

// blockSize is what stat and statfs say; du counts in units of 512 bytes whatever it is.
const blockSize = 4096

// bridge is the file system as go-fuse calls it. Requests are not interrupted by signals: a Go program under load
// sends itself many, and a close that is cut short would not be honest. They end when ctx does, which is at unmount.
type bridge struct {
	fuse.RawFileSystem
	ctx    context.Context
	tree   *tree.Tree
	name   string
	entry  time.Duration
	attr   time.Duration
	direct bool
}

func (b *bridge) String() string { return b.name }

func fillAttr(a *fuse.Attr, s tree.Stat) {
	a.Ino, a.Size, a.Blocks = s.Inode, uint64(s.Size), (uint64(s.Size)+511)/512
	a.Mode, a.Nlink, a.Rdev = s.Mode, s.Links, s.Rdev
	a.Uid, a.Gid, a.Blksize = s.UID, s.GID, blockSize
	a.SetTimes(&s.Atime, &s.Mtime, &s.Ctime)
}

func (b *bridge) fillEntry(out *fuse.EntryOut, e tree.Entry) {
	out.NodeId = e.Node
	out.SetEntryTimeout(b.entry)
	out.SetAttrTimeout(b.attr)
	fillAttr(&out.Attr, e.Stat)
}

func (b *bridge) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	e, err := b.tree.Lookup(b.ctx, h.NodeId, name)
	if err != nil {
		return status(err)
	}
	b.fillEntry(out, e)
	return fuse.OK
}

func (b *bridge) Forget(node, lookups uint64) { b.tree.Forget(node, lookups) }

func (b *bridge) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s, err := b.tree.GetAttr(b.ctx, in.NodeId)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(b.attr)
	fillAttr(&out.Attr, s)
	return fuse.OK
}

func (b *bridge) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c := tree.Change{Kill: in.Valid&fuse.FATTR_KILL_SUIDGID != 0}
	if mode, ok := in.GetMode(); ok {
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if mtime, ok := in.GetMTime(); ok {
		c.Mtime = &mtime
	}
	if atime, ok := in.GetATime(); ok {
		c.Atime = &atime
	}
	if size, ok := in.GetSize(); ok {
		n := int64(size)
		c.Size = &n
	}
	if fh, ok := in.GetFh(); ok {
		c.Handle = fh
	}
	s, err := b.tree.SetAttr(b.ctx, in.NodeId, c)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(b.attr)
	fillAttr(&out.Attr, s)
	return fuse.OK
}

func (b *bridge) make(h *fuse.InHeader, name string, what tree.Special, out *fuse.EntryOut) fuse.Status {
	what.UID, what.GID = h.Uid, h.Gid
	e, err := b.tree.Make(b.ctx, h.NodeId, name, what)
	if err != nil {
		return status(err)
	}
	b.fillEntry(out, e)
	return fuse.OK
}

func (b *bridge) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.make(&in.InHeader, name, tree.Special{Mode: in.Mode, Rdev: in.Rdev}, out)
}

func (b *bridge) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.make(&in.InHeader, name, tree.Special{Mode: syscall.S_IFDIR | in.Mode&^syscall.S_IFMT}, out)
}

func (b *bridge) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return b.make(h, name, tree.Special{Mode: syscall.S_IFLNK | 0o777, Target: target}, out)
}

func (b *bridge) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := b.tree.Readlink(b.ctx, h.NodeId)
	return []byte(target), status(err)
}

func (b *bridge) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(b.tree.Unlink(b.ctx, h.NodeId, name))
}

func (b *bridge) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(b.tree.Rmdir(b.ctx, h.NodeId, name))
}

func (b *bridge) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	return status(b.tree.Rename(b.ctx, in.NodeId, name, in.Newdir, newName, in.Flags))
}

// Link refuses hard links as file systems without them do; see SEMANTICS.md.
func (b *bridge) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Tmpfile refuses O_TMPFILE; programs fall back to a named file.
func (b *bridge) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (b *bridge) opened(o tree.Opened, flags uint32, out *fuse.OpenOut) {
	out.Fh = o.Handle
	if o.Keep {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	// Closing what cannot write has nothing to publish.
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	// A write-only handle gains nothing from the page cache and loses a copy to it.
	if b.direct && flags&syscall.O_ACCMODE == syscall.O_WRONLY {
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
}

func (b *bridge) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	o, err := b.tree.Open(b.ctx, in.NodeId, in.Flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0)
	if err != nil {
		return status(err)
	}
	b.opened(o, in.Flags, out)
	return fuse.OK
}

func (b *bridge) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	e, o, err := b.tree.Create(b.ctx, in.NodeId, name, in.Mode, in.Uid, in.Gid, in.Flags)
	if err != nil {
		return status(err)
	}
	b.fillEntry(&out.EntryOut, e)
	b.opened(o, in.Flags, &out.OpenOut)
	return fuse.OK
}

func (b *bridge) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := b.tree.Read(b.ctx, in.Fh, buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (b *bridge) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := b.tree.Write(b.ctx, in.Fh, data, int64(in.Offset), in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	if n > 0 {
		return uint32(n), fuse.OK // the rest, or its error, comes with the next write
	}
	return 0, status(err)
}

func (b *bridge) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	const seekData, seekHole = 3, 4
	if in.Whence != seekData && in.Whence != seekHole {
		return fuse.EINVAL
	}
	off, err := b.tree.Seek(in.Fh, int64(in.Offset), in.Whence == seekHole)
	out.Offset = uint64(off)
	return status(err)
}

func (b *bridge) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return status(b.tree.Flush(b.ctx, in.Fh))
}

func (b *bridge) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return status(b.tree.Fsync(b.ctx, in.Fh))
}

// Release has no answer: the tree logs what goes wrong.
func (b *bridge) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { _ = b.tree.Release(b.ctx, in.Fh) }

func (b *bridge) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return status(b.tree.Allocate(b.ctx, in.Fh, int64(in.Offset), int64(in.Length), in.Mode))
}

func (b *bridge) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, err := b.tree.OpenDir(b.ctx, in.NodeId)
	out.Fh = h
	return status(err)
}

func (b *bridge) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return status(b.tree.ReadDir(b.ctx, in.Fh, in.Offset, func(e tree.DirEntry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Inode, Mode: e.Mode, Off: e.Off})
	}))
}

func (b *bridge) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return status(b.tree.ReadDir(b.ctx, in.Fh, in.Offset, func(e tree.DirEntry) bool {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Inode, Mode: e.Mode, Off: e.Off})
		if entry == nil {
			return false
		}
		if found := b.tree.Enter(in.Fh, e); found.Node != 0 {
			b.fillEntry(entry, found)
		}
		return true
	}))
}

func (b *bridge) ReleaseDir(in *fuse.ReleaseIn) { b.tree.CloseDir(in.Fh) }

// FsyncDir has nothing to do: names are durable when the call that changed them returns.
func (b *bridge) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Access is not asked: the mount has default_permissions.
func (b *bridge) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (b *bridge) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := b.tree.Space(b.ctx)
	if err != nil {
		return status(err)
	}
	// No count bounds the number of files; df -i shows as many free ones as there are blocks.
	*out = fuse.StatfsOut{
		Blocks: uint64(s.Total / blockSize), Bfree: uint64(s.Free / blockSize), Bavail: uint64(s.Free / blockSize),
		Files: uint64(s.Objects + s.Free/blockSize), Ffree: uint64(s.Free / blockSize),
		Bsize: blockSize, Frsize: blockSize, NameLen: 255,
	}
	return fuse.OK
}

func fill(dest, value []byte) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (b *bridge) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	v, err := b.tree.GetXattr(b.ctx, h.NodeId, name)
	if err != nil {
		return 0, status(err)
	}
	return fill(dest, v)
}

func (b *bridge) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := b.tree.ListXattr(b.ctx, h.NodeId)
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, n := range names {
		list = append(append(list, n...), 0)
	}
	return fill(dest, list)
}

func (b *bridge) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	return status(b.tree.SetXattr(b.ctx, in.NodeId, name, value, in.Flags))
}

func (b *bridge) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return status(b.tree.RemoveXattr(b.ctx, h.NodeId, name))
}
