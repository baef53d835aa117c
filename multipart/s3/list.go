package s3

import (
	"encoding/xml"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// listing is what all four listings have in common.
type listing struct {
	prefix, delimiter string
	most              int
	url               bool // encoding-type=url
}

func (c *call) listing(maxName string) (listing, error) {
	l := listing{prefix: c.query.Get("prefix"), delimiter: c.query.Get("delimiter")}
	switch c.query.Get("encoding-type") {
	case "":
	case "url":
		l.url = true
	default:
		return l, Code("InvalidArgument").because("Invalid Encoding Method specified in Request.")
	}
	var err error
	l.most, err = c.number(maxName, maxPage, maxPage)
	return l, err
}

// beyond moves a marker that lies inside of a common prefix behind all of it: S3 lists the common prefixes that are
// greater than the marker, and such a one is not.
func (l listing) beyond(marker string) string {
	rest, below := strings.CutPrefix(marker, l.prefix)
	at := strings.Index(rest, l.delimiter)
	if !below || l.delimiter == "" || at < 0 {
		return marker
	}
	return marker[:len(l.prefix)+at+len(l.delimiter)]
}

// name writes a key, prefix, delimiter or marker.
func (l listing) name(s string) string {
	if l.url {
		return sigv4.EncodePath(s)
	}
	return s
}

func (l listing) encoding() string {
	if l.url {
		return "url"
	}
	return ""
}

// boundary finds where a page may end when its markers must be written as XML text. A key that XML cannot hold would
// come back as another marker, and the next page would leave keys out. So a page that would end at such a name ends at
// the last one before it that can be written; cut tells that there is one. When there is none, the client must ask
// for encoding-type=url.
func (l listing) boundary(names []string) (last string, cut bool, err error) {
	if l.url || len(names) == 0 || xmlapi.Representable(slices.Max(names)) {
		return "", false, nil
	}
	found := false
	for _, name := range names {
		if xmlapi.Representable(name) && (!found || name > last) {
			last, found = name, true
		}
	}
	if !found {
		return "", false, Code("InvalidRequest").because("The keys of this page cannot be written in XML. Ask for encoding-type=url.")
	}
	return last, true, nil
}

func listObjects(c *call) error {
	switch c.query.Get("list-type") {
	case "2":
		return listV2(c)
	case "", "1":
		return listV1(c)
	}
	return Code("InvalidArgument").because("Invalid list-type.")
}

func listV1(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	marker := c.query.Get("marker")
	page, err := c.store().List(c.ctx(), metadata.List{Bucket: c.bucket.ID, Prefix: l.prefix, Delimiter: l.delimiter, After: l.beyond(marker), Max: l.most})
	if err != nil {
		return err
	}
	if page.Truncated {
		if page, err = l.cut(page); err != nil {
			return err
		}
	}
	result := xmlapi.ListV1{
		Xmlns: xmlapi.Namespace, Name: c.bucketName, Prefix: l.name(l.prefix), Marker: l.name(marker), MaxKeys: l.most,
		Delimiter: l.name(l.delimiter), EncodingType: l.encoding(), IsTruncated: page.Truncated,
		Contents: c.contents(l, page.Versions, true), CommonPrefixes: l.prefixes(page.Prefixes),
	}
	if page.Truncated {
		result.NextMarker = l.name(page.Next)
	}
	c.xml(http.StatusOK, result)
	return nil
}

// cut ends a page where its marker can be written.
func (l listing) cut(page metadata.Page) (metadata.Page, error) {
	names := slices.Clone(page.Prefixes)
	for _, v := range page.Versions {
		names = append(names, v.Key)
	}
	last, cut, err := l.boundary(names)
	if err != nil || !cut {
		return page, err
	}
	page.Versions = slices.DeleteFunc(page.Versions, func(v metadata.Version) bool { return v.Key > last })
	page.Prefixes = slices.DeleteFunc(page.Prefixes, func(p string) bool { return p > last })
	page.Next = last
	return page, nil
}

func listV2(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	token, start := c.query.Get("continuation-token"), c.query.Get("start-after")
	after := l.beyond(start)
	if c.query.Has("continuation-token") {
		if after, err = openToken(token, c.bucket.ID, l.prefix, l.delimiter); err != nil {
			return err
		}
	}
	page, err := c.store().List(c.ctx(), metadata.List{Bucket: c.bucket.ID, Prefix: l.prefix, Delimiter: l.delimiter, After: after, Max: l.most})
	if err != nil {
		return err
	}
	result := xmlapi.ListV2{
		Xmlns: xmlapi.Namespace, Name: c.bucketName, Prefix: l.name(l.prefix), StartAfter: l.name(start), ContinuationToken: token,
		KeyCount: len(page.Versions) + len(page.Prefixes), MaxKeys: l.most, Delimiter: l.name(l.delimiter), EncodingType: l.encoding(),
		IsTruncated: page.Truncated, Contents: c.contents(l, page.Versions, c.query.Get("fetch-owner") == "true"), CommonPrefixes: l.prefixes(page.Prefixes),
	}
	if page.Truncated {
		result.NextContinuationToken = sealToken(c.bucket.ID, l.prefix, l.delimiter, page.Next)
	}
	c.xml(http.StatusOK, result)
	return nil
}

// contents writes the objects of a page.
func (c *call) contents(l listing, versions []metadata.Version, owners bool) []xmlapi.Object {
	var by *xmlapi.Owner
	if owners {
		o := owner(c.bucket.Owner)
		by = &o
	}
	objects := make([]xmlapi.Object, len(versions))
	for i, v := range versions {
		objects[i] = xmlapi.Object{
			Key: l.name(v.Key), LastModified: xmlapi.Time(v.Modified), ETag: quote(v.ETag), ChecksumAlgorithm: algorithmsOf(v.Checksums),
			ChecksumType: v.ChecksumType, Size: v.Size, Owner: by, StorageClass: storageClass(v.Headers),
		}
	}
	return objects
}

func (l listing) prefixes(names []string) []xmlapi.CommonPrefix {
	prefixes := make([]xmlapi.CommonPrefix, len(names))
	for i, name := range names {
		prefixes[i].Prefix = l.name(name)
	}
	return prefixes
}

func storageClass(headers map[string]string) string {
	if class := headers[storageClassHeader]; class != "" {
		return class
	}
	return standardClass
}

func algorithmsOf(sums map[string]string) []string {
	var names []string
	for name := range sums {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func listVersions(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	keyMarker, marker := c.query.Get("key-marker"), c.query.Get("version-id-marker")
	request := metadata.ListVersions{Bucket: c.bucket.ID, Prefix: l.prefix, Delimiter: l.delimiter, AfterKey: l.beyond(keyMarker), Max: l.most}
	if marker != "" && keyMarker == "" {
		return Code("InvalidArgument").because("A version-id marker cannot be specified without a key marker.")
	}
	if marker != "" {
		at, err := parseAt(marker, true)
		if err != nil {
			return err
		}
		if request.AfterKey != keyMarker {
			at = multipart.At{} // behind a common prefix there is no version to begin after
		}
		if request.AfterNull = at.Null; at.Version != nil {
			request.AfterVersion = *at.Version
		}
	}
	page, err := c.store().ListVersions(c.ctx(), request)
	if err != nil {
		return err
	}
	if page.Truncated {
		if page, err = l.cutVersions(page); err != nil {
			return err
		}
	}
	result := xmlapi.ListVersions{
		Xmlns: xmlapi.Namespace, Name: c.bucketName, Prefix: l.name(l.prefix), KeyMarker: l.name(keyMarker), VersionIDMarker: marker,
		MaxKeys: l.most, Delimiter: l.name(l.delimiter), EncodingType: l.encoding(), IsTruncated: page.Truncated,
		Entries: c.versionEntries(l, page.Versions), CommonPrefixes: l.prefixes(page.Prefixes),
	}
	if page.Truncated {
		result.NextKeyMarker = l.name(page.NextKey)
		if !page.NextVersion.IsZero() {
			// Null versions have an id of their own behind the name "null", which finds the place again.
			result.NextVersionIDMarker = page.NextVersion.String()
		}
	}
	c.xml(http.StatusOK, result)
	return nil
}

// cutVersions is cut for versions: it never separates versions of one key.
func (l listing) cutVersions(page metadata.VersionsPage) (metadata.VersionsPage, error) {
	names := slices.Clone(page.Prefixes)
	for _, v := range page.Versions {
		names = append(names, v.Key)
	}
	last, cut, err := l.boundary(names)
	if err != nil || !cut {
		return page, err
	}
	page.Versions = slices.DeleteFunc(page.Versions, func(v metadata.Version) bool { return v.Key > last })
	page.Prefixes = slices.DeleteFunc(page.Prefixes, func(p string) bool { return p > last })
	page.NextKey, page.NextVersion = last, metadata.VersionID{}
	return page, nil
}

func (c *call) versionEntries(l listing, versions []metadata.Version) []xmlapi.Version {
	entries := make([]xmlapi.Version, len(versions))
	for i, v := range versions {
		e := xmlapi.Version{
			XMLName: xml.Name{Local: "Version"}, Key: l.name(v.Key), VersionID: versionName(v.ID, v.Null), IsLatest: v.Latest,
			LastModified: xmlapi.Time(v.Modified), Owner: owner(c.bucket.Owner),
		}
		if v.DeleteMarker {
			e.XMLName.Local = "DeleteMarker"
		} else {
			e.ETag, e.Size, e.StorageClass = quote(v.ETag), &versions[i].Size, storageClass(v.Headers)
			e.ChecksumAlgorithm, e.ChecksumType = algorithmsOf(v.Checksums), v.ChecksumType
		}
		entries[i] = e
	}
	return entries
}

func listUploads(c *call) error {
	l, err := c.listing("max-uploads")
	if err != nil {
		return err
	}
	keyMarker, marker := c.query.Get("key-marker"), c.query.Get("upload-id-marker")
	request := metadata.ListUploads{Bucket: c.bucket.ID, Prefix: l.prefix, Delimiter: l.delimiter, AfterKey: l.beyond(keyMarker), Max: l.most}
	if marker != "" && keyMarker != "" {
		if request.AfterUpload, err = metadata.ParseUploadID(strings.ToLower(marker)); err != nil {
			return Code("InvalidArgument").because("Invalid uploadId marker.")
		}
	}
	if request.AfterKey != keyMarker {
		request.AfterUpload = metadata.UploadID{}
	}
	page, err := c.store().Uploads(c.ctx(), request)
	if err != nil {
		return err
	}
	if page.Truncated {
		if page, err = l.cutUploads(page); err != nil {
			return err
		}
	}
	result := xmlapi.ListUploads{
		Xmlns: xmlapi.Namespace, Bucket: c.bucketName, KeyMarker: l.name(keyMarker), UploadIDMarker: marker, Prefix: l.name(l.prefix),
		Delimiter: l.name(l.delimiter), EncodingType: l.encoding(), MaxUploads: l.most, IsTruncated: page.Truncated, CommonPrefixes: l.prefixes(page.Prefixes),
	}
	for _, u := range page.Uploads {
		result.Uploads = append(result.Uploads, xmlapi.Upload{
			Key: l.name(u.Key), UploadID: u.ID.String(), Initiator: owner(u.Owner), Owner: owner(c.bucket.Owner), StorageClass: storageClass(u.Template.Headers),
			Initiated: xmlapi.Time(u.Started), ChecksumAlgorithm: u.ChecksumAlgorithm, ChecksumType: u.Template.ChecksumType,
		})
	}
	if page.Truncated {
		result.NextKeyMarker = l.name(page.NextKey)
		if !page.NextUpload.IsZero() {
			result.NextUploadIDMarker = page.NextUpload.String()
		}
	}
	c.xml(http.StatusOK, result)
	return nil
}

// cutUploads is cut for uploads.
func (l listing) cutUploads(page metadata.UploadsPage) (metadata.UploadsPage, error) {
	names := slices.Clone(page.Prefixes)
	for _, u := range page.Uploads {
		names = append(names, u.Key)
	}
	last, cut, err := l.boundary(names)
	if err != nil || !cut {
		return page, err
	}
	page.Uploads = slices.DeleteFunc(page.Uploads, func(u metadata.Upload) bool { return u.Key > last })
	page.Prefixes = slices.DeleteFunc(page.Prefixes, func(p string) bool { return p > last })
	page.NextKey, page.NextUpload = last, metadata.UploadID{}
	return page, nil
}
