//go:build !race

package raft

const slowdown = 1
