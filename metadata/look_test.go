package metadata

import (
	"fmt"
	"testing"
)

func TestLookTellsWhatANameStandsFor(t *testing.T) {
	for _, versioning := range []Versioning{Unversioned, VersioningEnabled} {
		w := newWorld(t)
		bucket := w.bucket("bucket", versioning)
		w.put(bucket, "file", "content")
		w.put(bucket, "both", "content")
		w.put(bucket, "both/x", "x")
		w.put(bucket, "marked/", "")
		w.put(bucket, "plain/x", "x")
		w.put(bucket, "gone", "x")
		w.put(bucket, "left/x", "x")
		w.put(bucket, "plainer", "x")
		for _, key := range []string{"gone", "left/x"} {
			_, err := w.Delete(w.ctx, Delete{Bucket: bucket, Key: key})
			w.must(err)
		}
		for key, want := range map[string]string{
			"file": "file - false", "both": "both - true", "marked": "- marked/ true", "plain": "- - true", "pla": "- - false",
			"gone": "- - false", "left": "- - false", "nothing": "- - false", "": "- - false",
		} {
			found, err := w.Look(w.ctx, bucket, key)
			w.must(err)
			name := func(v *Version) string {
				if v == nil {
					return "-"
				}
				current, err := w.Current(w.ctx, bucket, v.Key)
				w.must(err)
				if v.ID != current.ID || v.Size != current.Size || v.ETag != current.ETag || !v.Latest || v.Inline != nil {
					t.Errorf("look finds %+v, get %+v", v, current)
				}
				return v.Key
			}
			if got := fmt.Sprint(name(found.Object), " ", name(found.Marker), " ", found.Below); got != want {
				t.Errorf("%q (versioning %v) is %s, want %s", key, versioning, got, want)
			}
		}
		_, err := w.Look(w.ctx, bucket+1000, "file")
		w.wantErr(err, ErrNoSuchBucket)
	}
}
