package peer

import (
	"bytes"
	"testing"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
)

// TestPartsOfAFreedVersionAreNotLost deletes the chunks of a multipart object that is gone, and leaves its freed row: as
// while a drive is down that has not confirmed. Part rows stay for as long, and a check must not take them for names.
func TestPartsOfAFreedVersionAreNotLost(t *testing.T) {
	t.Parallel()
	p := start(t, vfs.NewMemory(78))
	defer stop(t, p)
	keep(t, p, "kept", testBody)
	objects := p.core.Load().objects
	bucket, err := objects.Bucket(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	up, err := objects.CreateUpload(t.Context(), multipart.CreateUpload{Bucket: bucket.ID, Key: "parts"})
	if err != nil {
		t.Fatal(err)
	}
	part, err := objects.PutPart(t.Context(), multipart.PutPart{Bucket: bucket.ID, Key: "parts", Upload: up.ID, Number: 1,
		Body: multipart.Body{Reader: bytes.NewReader(testBody), Size: int64(len(testBody))}})
	if err != nil {
		t.Fatal(err)
	}
	complete := metadata.Complete{Bucket: bucket.ID, Key: "parts", Upload: up.ID, Parts: []metadata.CompletePart{{Number: 1, ETag: part.ETag}}}
	if _, err := objects.Complete(t.Context(), complete); err != nil {
		t.Fatal(err)
	}
	if _, err := objects.Delete(t.Context(), metadata.Delete{Bucket: bucket.ID, Key: "parts"}); err != nil {
		t.Fatal(err)
	}
	var freed []chunkstore.Chunk
	rows := 0
	if err := objects.Survey(t.Context(), func(n multipart.Named) error {
		if n.At.Freed != nil {
			freed = append(freed, n.Chunk)
		}
		if n.At.Part != nil {
			rows++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(freed) == 0 || rows == 0 {
		t.Fatalf("%d chunks are freed, %d part rows are left", len(freed), rows)
	}
	if left, err := p.core.Load().chunks.Delete(t.Context(), freed); err != nil || len(left) > 0 {
		t.Fatalf("%d chunks are left: %v", len(left), err)
	}
	report, err := source{p, p.core.Load()}.Fsck(t.Context(), false, func(e admin.FsckEvent) error {
		if e.Problem != nil {
			t.Errorf("problem: %+v", e.Problem)
		}
		return nil
	})
	if err != nil || !report.Sound() || report.Chunks == 0 {
		t.Errorf("report %+v, %v", report, err)
	}
}
