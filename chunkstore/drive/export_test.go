package drive

// Waiting tells how many requests wait for the committer.
func (d *Drive) Waiting() int { return len(d.queue) }
