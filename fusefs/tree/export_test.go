package tree

// Squeeze sends all new data on its way into the store, as a full memory does.
func (t *Tree) Squeeze() error { return t.pressure(true) }
