package remote

import (
	"reflect"
	"time"

	"github.com/holdfast/holdfast/metadata"
)

// schema names the fields of every struct on the wire in the order of their numbers, from 1. A new field goes to the
// end of its line: a peer of an older version refuses it where it is set, and understands everything else.
var schema = map[reflect.Type]string{
	reflect.TypeFor[metadata.VersionID]():    "Clock Random",
	reflect.TypeFor[metadata.UploadID]():     "Clock Random",
	reflect.TypeFor[metadata.Op]():           "Session Seq",
	reflect.TypeFor[metadata.Bucket]():       "ID Name Created Owner Versioning",
	reflect.TypeFor[metadata.PartRun]():      "First Count Size",
	reflect.TypeFor[metadata.Attr]():         "Mode UID GID Mtime Atime Ctime Rdev Target Xattrs Inode",
	reflect.TypeFor[metadata.Adopt]():        "Number Rest",
	reflect.TypeFor[metadata.StageKey]():     "Session Inode",
	reflect.TypeFor[metadata.Stage]():        "StageKey Put Own",
	reflect.TypeFor[metadata.If]():           "Match NoneMatch Base NoBase",
	reflect.TypeFor[metadata.Row]():          "Key Value Revision",
	reflect.TypeFor[metadata.Deleted]():      "Version Null DeleteMarker Found",
	reflect.TypeFor[metadata.Delete]():       "Bucket Key Version Null If Op Empty",
	reflect.TypeFor[metadata.Rename]():       "Bucket From To NoReplace If Op Attr",
	reflect.TypeFor[metadata.List]():         "Bucket Prefix Delimiter After Max",
	reflect.TypeFor[metadata.Page]():         "Versions Prefixes Next Truncated",
	reflect.TypeFor[metadata.Looked]():       "Object Marker Below",
	reflect.TypeFor[metadata.Counts]():       "Freed Shared Staged",
	reflect.TypeFor[metadata.Usage]():        "Objects Bytes Versions VersionBytes Uploads Parts PartBytes",
	reflect.TypeFor[metadata.Freed]():        "Row Bucket NotBefore Manifest Parts Shared",
	reflect.TypeFor[metadata.Surveyed]():     "Bucket Key Version Upload Part PartOf Freed Stage Row",
	reflect.TypeFor[metadata.Upload]():       "ID Key Started Owner Template ChecksumAlgorithm Internal",
	reflect.TypeFor[metadata.Part]():         "Number Size ETag Modified Checksums Manifest Inline Shared Adopted Rest",
	reflect.TypeFor[metadata.UploadsPage]():  "Uploads Prefixes NextKey NextUpload Truncated",
	reflect.TypeFor[metadata.ListUploads]():  "Bucket Prefix Delimiter AfterKey AfterUpload Max",
	reflect.TypeFor[metadata.ListVersions](): "Bucket Prefix Delimiter AfterKey AfterVersion AfterNull Max",
	reflect.TypeFor[metadata.VersionsPage](): "Versions Prefixes NextKey NextVersion Truncated",
	reflect.TypeFor[metadata.CompletePart](): "Number ETag Checksums",
	reflect.TypeFor[metadata.Complete]():     "Bucket Key Upload Parts If Op Checksums ChecksumType MinPartSize Attr Modified",
	reflect.TypeFor[metadata.Put]():          "Bucket Version If Op Intents Keeps Dropped AdoptsOf AdoptsKey Adopts Unstage",
	reflect.TypeFor[metadata.Version](): "Key ID Null DeleteMarker Latest Size ETag Modified Headers Meta Tags Checksums " +
		"ChecksumType Attr Inline Manifest Parts PartsOf PartsKey Shared",

	reflect.TypeFor[nothing]():       "",
	reflect.TypeFor[fault]():         "Codes Text Leader",
	reflect.TypeFor[nameArgs]():      "Name Owner Versioning",
	reflect.TypeFor[keyArgs]():       "Bucket Key",
	reflect.TypeFor[versionArgs]():   "Bucket Key ID Null",
	reflect.TypeFor[tagsArgs]():      "Bucket Key ID Null Tags",
	reflect.TypeFor[attrArgs]():      "Bucket Key ID Attr Meta Op",
	reflect.TypeFor[prefixArgs]():    "Bucket From To",
	reflect.TypeFor[uploadArgs]():    "Bucket Key Upload After Max Op",
	reflect.TypeFor[newUploadArgs](): "Bucket Upload Op",
	reflect.TypeFor[partArgs]():      "Bucket Key Upload Part Intents Op",
	reflect.TypeFor[sessionArgs]():   "Session Name Lease",
	reflect.TypeFor[holdArgs]():      "Session Bucket Key ID",
	reflect.TypeFor[rowsArgs]():      "Prefix After Max",
	reflect.TypeFor[freedArgs]():     "After Max Now",
	reflect.TypeFor[dropArgs]():      "Rows",
}

// Arguments of the procedures that take several.
type (
	nothing  struct{}
	nameArgs struct {
		Name, Owner string
		Versioning  metadata.Versioning
	}
	keyArgs struct {
		Bucket metadata.BucketID
		Key    string
	}
	versionArgs struct {
		Bucket metadata.BucketID
		Key    string
		ID     metadata.VersionID
		Null   bool
	}
	tagsArgs struct {
		Bucket metadata.BucketID
		Key    string
		ID     *metadata.VersionID
		Null   bool
		Tags   map[string]string
	}
	attrArgs struct {
		Bucket metadata.BucketID
		Key    string
		ID     metadata.VersionID
		Attr   metadata.Attr
		Meta   map[string]string
		Op     metadata.Op
	}
	prefixArgs struct {
		Bucket   metadata.BucketID
		From, To string
	}
	uploadArgs struct {
		Bucket     metadata.BucketID
		Key        string
		Upload     metadata.UploadID
		After, Max int
		Op         metadata.Op
	}
	newUploadArgs struct {
		Bucket metadata.BucketID
		Upload metadata.Upload
		Op     metadata.Op
	}
	partArgs struct {
		Bucket  metadata.BucketID
		Key     string
		Upload  metadata.UploadID
		Part    metadata.Part
		Intents []metadata.Row
		Op      metadata.Op
	}
	sessionArgs struct {
		Session uint64
		Name    string
		Lease   time.Duration
	}
	holdArgs struct {
		Session uint64
		Bucket  metadata.BucketID
		Key     string
		ID      metadata.VersionID
	}
	rowsArgs struct {
		Prefix, After []byte
		Max           int
	}
	freedArgs struct {
		After []byte
		Max   int
		Now   time.Time
	}
	dropArgs struct{ Rows [][]byte }
)
