package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast/holdfast/cluster/root"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart/s3"
)

// keyRecord is an access key.
type keyRecord struct {
	Secret string `json:"secret"`
	Root   bool   `json:"root"`
}

// loadKey reads the root key that DIR remembers, so that status can be asked before the names are open.
func (p *Peer) loadKey() error {
	if p.config.RootKey != nil {
		p.key.Store(p.config.RootKey)
		return nil
	}
	key, err := ReadCredentials(p.seams.FS, p.config.Dir)
	switch {
	case err == nil:
		p.key.Store(key)
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrBadCredentials):
		return nil // the cluster keeps it too, and the file is written again
	}
	return err
}

// settleRootKey makes config's key the root key when it demands one, and returns the one that holds.
func settleRootKey(ctx context.Context, client *root.Client, demanded *Credentials) (Credentials, error) {
	rows, err := client.Rows(ctx, root.Keys, "", "", 0)
	if err != nil {
		return Credentials{}, err
	}
	for _, row := range rows {
		var record keyRecord
		if err := json.Unmarshal(row.Value, &record); err != nil {
			return Credentials{}, fmt.Errorf("access key row %q: %w", row.Name, err)
		}
		if !record.Root {
			continue
		}
		found := Credentials{AccessKey: row.Name, Secret: Secret(record.Secret)}
		if demanded == nil || found == *demanded {
			return found, nil
		}
		if err := client.DeleteRow(ctx, root.Keys, row.Name, row.Revision); err != nil {
			return Credentials{}, fmt.Errorf("replace the root access key: %w", err)
		}
	}
	if demanded == nil {
		made := NewCredentials()
		demanded = &made
	}
	value, err := json.Marshal(keyRecord{Secret: string(demanded.Secret), Root: true})
	if err != nil {
		return Credentials{}, err
	}
	if _, err := client.PutRow(ctx, root.Row{Kind: root.Keys, Name: demanded.AccessKey, Value: value}); err != nil {
		return Credentials{}, fmt.Errorf("store the root access key: %w", err)
	}
	return *demanded, nil
}

// keysEvery is how often a peer looks for a change of the access keys: one that was taken away stops within 5 s.
const keysEvery = 2 * time.Second

// keepKeys keeps the root access key in memory up to date until ctx ends.
func (c *core) keepKeys(ctx context.Context) error {
	ticker := time.NewTicker(keysEvery)
	defer ticker.Stop()
	for {
		if err := c.readKeys(ctx); err != nil && ctx.Err() == nil {
			c.peer.log.Debug("access keys were not read", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *core) readKeys(ctx context.Context) error {
	rows, err := c.root.Rows(ctx, root.Keys, "", "", 0)
	if err != nil {
		return err
	}
	key, err := rootKeyOf(rows)
	if err != nil || key == nil {
		return err
	}
	if have := c.peer.key.Load(); have != nil && *have == *key {
		return nil
	}
	return c.peer.keepKey(*key)
}

// rootKeyOf finds the root access key among the rows of keys, nil when there is none.
func rootKeyOf(rows []root.Row) (*Credentials, error) {
	for _, row := range rows {
		var record keyRecord
		if err := json.Unmarshal(row.Value, &record); err != nil {
			return nil, fmt.Errorf("access key row %q: %w", row.Name, err)
		}
		if record.Root {
			return &Credentials{AccessKey: row.Name, Secret: Secret(record.Secret)}, nil
		}
	}
	return nil, nil
}

// keepKey makes a key the root access key of this peer, in memory and in DIR.
func (p *Peer) keepKey(key Credentials) error {
	fsys, dir := p.seams.FS, p.config.Dir
	if kept, err := ReadCredentials(fsys, dir); err != nil || *kept != key {
		if err := writeCredentials(fsys, dir, key); err != nil {
			return err
		}
	}
	p.key.Store(&key)
	return nil
}

// errNoKeys says that the access keys are not known yet.
var errNoKeys = fmt.Errorf("the access keys were not read yet: %w", metadata.ErrUnavailable)

// lookupKey is how the S3 face finds the secret of an access key.
func (p *Peer) lookupKey(_ context.Context, accessKey string) (string, s3.Principal, error) {
	key := p.key.Load()
	if key == nil {
		return "", s3.Principal{}, errNoKeys
	}
	if key.AccessKey != accessKey {
		return "", s3.Principal{}, s3.ErrNoSuchAccessKey
	}
	return string(key.Secret), s3.Principal{AccessKey: accessKey, Name: "root", Root: true}, nil
}
