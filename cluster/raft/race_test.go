//go:build race

package raft

// slowdown is by how much the race detector makes this package's tests slower.
const slowdown = 15
