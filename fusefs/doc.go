// Package fusefs is the mount: it holds go-fuse's raw interface in front of package tree. One kernel request is one
// call of the tree; the only decisions taken here are how errors are told (errno.go), what the kernel may keep, and
// how a mount is made and ended. SEMANTICS.md says what programs may rely on.
package fusefs
