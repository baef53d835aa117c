package multipart_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/multiparttest"
)

// TestScarceNamesTakeDeletesAlone refuses what adds names while space is left for deletes only.
func TestScarceNamesTakeDeletesAlone(t *testing.T) {
	var scarce atomic.Bool
	k := kit{multiparttest.New(t, func(c *multipart.Config) { c.Scarce = scarce.Load })}
	b := k.Bucket("scarce", metadata.Unversioned)
	body := []byte("a body")
	k.put(b, "before", body)
	upload, err := k.Store.CreateUpload(t.Context(), multipart.CreateUpload{Bucket: b, Key: "upload"})
	if err != nil {
		t.Fatal(err)
	}
	scarce.Store(true)
	source := multipart.Source{Bucket: b, Key: "before"}
	for name, try := range map[string]func() error{
		"put": func() error {
			_, err := k.Store.Put(t.Context(), multipart.Put{Bucket: b, Key: "new", Body: sized(body)})
			return err
		},
		"create upload": func() error {
			_, err := k.Store.CreateUpload(t.Context(), multipart.CreateUpload{Bucket: b, Key: "new"})
			return err
		},
		"put part": func() error {
			_, err := k.Store.PutPart(t.Context(), multipart.PutPart{Bucket: b, Key: "upload", Upload: upload.ID, Number: 1, Body: sized(body)})
			return err
		},
		"copy part": func() error {
			_, err := k.Store.CopyPart(t.Context(), multipart.CopyPart{Bucket: b, Key: "upload", Upload: upload.ID, Number: 1, Source: source})
			return err
		},
		"copy": func() error {
			_, err := k.Store.Copy(t.Context(), multipart.Copy{Bucket: b, Key: "new", Source: source})
			return err
		},
		"compose": func() error {
			_, err := k.Store.Compose(t.Context(), multipart.Compose{Bucket: b, Key: "new"})
			return err
		},
	} {
		if err := try(); !errors.Is(err, chunkstore.ErrFull) {
			t.Fatalf("%s: %v, want %v", name, err, chunkstore.ErrFull)
		}
	}
	k.want(b, "before", body)
	if _, err := k.Store.Delete(t.Context(), metadata.Delete{Bucket: b, Key: "before"}); err != nil {
		t.Fatal(err)
	}
	k.wantGone(b, "before")
	if err := k.Store.Abort(t.Context(), b, "upload", upload.ID); err != nil {
		t.Fatal(err)
	}
	scarce.Store(false)
	k.put(b, "new", body)
}
