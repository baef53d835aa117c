package vfs

import (
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// Op names a kind of operation for a Rule.
type Op string

// The operations that rules match. Lock, ReadDir, Stat and Usage make no change that a crash could undo.
const (
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpSyncDir  Op = "syncdir"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpPunch    Op = "punch"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpMkdir    Op = "mkdir"
	OpReadDir  Op = "readdir"
	OpStat     Op = "stat"
	OpUsage    Op = "usage"
	OpLock     Op = "lock"
)

// Rule says which operations of a Memory fail, wait or write short, and how. A rule without an effect counts.
type Rule struct {
	// Op is the kind of operation; empty means every kind.
	Op Op
	// Path is a pattern of path.Match when it holds any of *?[, else a part of the name; empty means every name.
	// A rename is matched by its source.
	Path string
	// After is how many matching operations pass before the rule fires.
	After int
	// Times is how often it fires; zero means for ever.
	Times int

	// Err is what the operation returns instead of being done. After a Sync that failed so the dirty pages are lost
	// to every later Sync, as they are in kernels.
	Err error
	// Delay is called before the operation, without any lock held.
	Delay func()
	// Hang makes the operation wait until the fault is cleared or power is lost.
	Hang bool
	// Short makes a write store about half of its bytes before it returns Err (EIO when Err is nil).
	Short bool
}

// Fault is an injected rule.
type Fault struct {
	m       *Memory
	rule    Rule
	seen    int // guarded by m.mu
	fired   atomic.Int64
	cleared chan struct{}
}

// Inject adds a rule. Rules are asked in the order they were added; the first error wins.
func (m *Memory) Inject(r Rule) *Fault {
	f := &Fault{m: m, rule: r, cleared: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rules = append(m.rules, f)
	return f
}

// Fired tells how many operations the rule has hit. A test of a fault asserts that it is not zero.
func (f *Fault) Fired() int { return int(f.fired.Load()) }

// Clear takes the rule away and lets operations go on that hang by it. It may be called twice.
func (f *Fault) Clear() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if i := slices.Index(f.m.rules, f); i >= 0 {
		f.m.rules = slices.Delete(f.m.rules, i, i+1)
		close(f.cleared)
	}
}

// before asks the rules about an operation that is about to be done.
func (m *Memory) before(op Op, name string) error {
	for _, f := range m.firing(op, name, false) {
		if f.rule.Delay != nil {
			f.rule.Delay()
		}
		if f.rule.Hang {
			select {
			case <-f.cleared:
			case <-m.gone:
				return ErrPowerLost
			}
		}
		if f.rule.Err != nil {
			return f.rule.Err
		}
	}
	return nil
}

// shortWrite returns the error of a rule that makes this write short, nil when there is none.
func (m *Memory) shortWrite(name string) error {
	firing := m.firing(OpWrite, name, true)
	switch {
	case len(firing) == 0:
		return nil
	case firing[0].rule.Err != nil:
		return firing[0].rule.Err
	}
	return syscall.EIO
}

// firing counts an operation against the rules and returns those that fire. Rules of short writes are asked apart.
func (m *Memory) firing(op Op, name string, short bool) []*Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*Fault
	for _, f := range m.rules {
		if f.rule.Short != short || !f.rule.matches(op, name) {
			continue
		}
		f.seen++
		if f.seen <= f.rule.After || f.rule.Times > 0 && f.seen > f.rule.After+f.rule.Times {
			continue
		}
		f.fired.Add(1)
		list = append(list, f)
	}
	return list
}

func (r *Rule) matches(op Op, name string) bool {
	if r.Op != "" && r.Op != op {
		return false
	}
	if strings.ContainsAny(r.Path, "*?[") {
		ok, err := path.Match(r.Path, path.Clean(name))
		return ok && err == nil
	}
	return strings.Contains(path.Clean(name), r.Path)
}
