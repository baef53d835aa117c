package s3

import (
	"net/http"
	"slices"
	"sync"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// deleters is how many keys of one DeleteObjects are under way at once: enough to share the log's group commit, few
// enough that one request does not crowd others out.
const deleters = 32

func deleteObjects(c *call) error {
	if !c.body.declared.sent() && !c.body.signed {
		return Code("InvalidRequest").because("Missing required header for this request: Content-MD5 or a checksum.")
	}
	var request xmlapi.Delete
	if err := c.readXML(&request, xmlapi.MaxLongBody); err != nil {
		return err
	}
	if len(request.Objects) == 0 || len(request.Objects) > maxDeletes || slices.ContainsFunc(request.Objects, keyless) {
		return Code("MalformedXML")
	}
	outcomes := make([]outcome, len(request.Objects))
	var wait sync.WaitGroup
	slots := make(chan struct{}, deleters)
	for i, object := range request.Objects {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			outcomes[i] = c.deleteOne(object)
		})
	}
	wait.Wait()
	result := xmlapi.DeleteResult{Xmlns: xmlapi.Namespace}
	for _, o := range outcomes {
		switch {
		case o.failed != nil:
			result.Errors = append(result.Errors, *o.failed)
		case !request.Quiet:
			result.Deleted = append(result.Deleted, o.done)
		}
	}
	c.xml(http.StatusOK, result)
	return nil
}

// keyless tells whether an object names no key, which makes the whole request meaningless.
func keyless(object xmlapi.DeleteObject) bool { return object.Key == "" }

// outcome is what became of one key.
type outcome struct {
	done   xmlapi.Deleted
	failed *xmlapi.DeleteError
}

func (c *call) deleteOne(object xmlapi.DeleteObject) outcome {
	done, at, err := c.tryDelete(object)
	if err != nil {
		code, a := describe(err)
		if fault(a.status) {
			c.server.config.Log.Error("delete failed", "bucket", c.bucketName, "key", object.Key, "request", c.id, "err", err)
		}
		return outcome{failed: &xmlapi.DeleteError{Key: object.Key, VersionID: object.VersionID, Code: string(code), Message: a.message}}
	}
	out := outcome{done: xmlapi.Deleted{Key: object.Key, VersionID: object.VersionID, DeleteMarker: done.DeleteMarker}}
	if done.DeleteMarker && c.bucket.Versioning != metadata.Unversioned {
		out.done.DeleteMarkerVersionID = versionName(done.Version, done.Null && at.Version == nil)
	}
	return out
}

func (c *call) tryDelete(object xmlapi.DeleteObject) (metadata.Deleted, multipart.At, error) {
	if err := checkKey(object.Key); err != nil {
		return metadata.Deleted{}, multipart.At{}, err
	}
	if object.Size != nil || object.LastModifiedTime != nil {
		return metadata.Deleted{}, multipart.At{}, Code("NotImplemented") // ignoring it would delete what must stay
	}
	at, err := parseAt(object.VersionID, object.VersionID != "")
	if err != nil {
		return metadata.Deleted{}, at, Code("NoSuchVersion")
	}
	done, err := c.remove(object.Key, at, metadata.If{Match: unquote(object.ETag)})
	return done, at, err
}
