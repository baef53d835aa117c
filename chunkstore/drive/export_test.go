package drive

// Waiting tells how many requests wait for the committer.
func (d *Drive) Waiting() int { return len(d.queue) }

// Tombstones tells how many deleted shards are remembered.
func (d *Drive) Tombstones() (n int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, v := range d.volumes {
		n += len(v.deleted)
	}
	return n
}
