package xmlapi

import "encoding/xml"

// CreateBucketConfiguration is the body of CreateBucket.
type CreateBucketConfiguration struct {
	XMLName            xml.Name `xml:"CreateBucketConfiguration"`
	LocationConstraint string   `xml:"LocationConstraint"`
	Tags               *TagSet  `xml:"Tags"`
}

// Delete is the body of DeleteObjects.
type Delete struct {
	XMLName xml.Name       `xml:"Delete"`
	Objects []DeleteObject `xml:"Object"`
	Quiet   bool           `xml:"Quiet"`
}

// DeleteObject names one object of Delete. Size and LastModifiedTime are conditions that only S3's directory buckets
// know; they are read to be refused.
type DeleteObject struct {
	Key              string  `xml:"Key"`
	VersionID        string  `xml:"VersionId"`
	ETag             string  `xml:"ETag"`
	Size             *string `xml:"Size"`
	LastModifiedTime *string `xml:"LastModifiedTime"`
}

// CompleteMultipartUpload is the body of CompleteMultipartUpload.
type CompleteMultipartUpload struct {
	XMLName xml.Name       `xml:"CompleteMultipartUpload"`
	Parts   []CompletePart `xml:"Part"`
}

// CompletePart is one part of CompleteMultipartUpload.
type CompletePart struct {
	PartNumber int    `xml:"PartNumber"`
	ETag       string `xml:"ETag"`
	Checksums
}

// Checksums are the elements that hold checksums in base64.
type Checksums struct {
	CRC32     string `xml:"ChecksumCRC32,omitempty"`
	CRC32C    string `xml:"ChecksumCRC32C,omitempty"`
	CRC64NVME string `xml:"ChecksumCRC64NVME,omitempty"`
	SHA1      string `xml:"ChecksumSHA1,omitempty"`
	SHA256    string `xml:"ChecksumSHA256,omitempty"`
}

// FromMap fills the elements from values by algorithm.
func FromMap(m map[string]string) Checksums {
	return Checksums{CRC32: m["CRC32"], CRC32C: m["CRC32C"], CRC64NVME: m["CRC64NVME"], SHA1: m["SHA1"], SHA256: m["SHA256"]}
}

// Map gives the values that are there by algorithm.
func (c Checksums) Map() map[string]string {
	m := map[string]string{"CRC32": c.CRC32, "CRC32C": c.CRC32C, "CRC64NVME": c.CRC64NVME, "SHA1": c.SHA1, "SHA256": c.SHA256}
	for name, value := range m {
		if value == "" {
			delete(m, name)
		}
	}
	return m
}

// VersioningConfiguration is the body of Put- and GetBucketVersioning.
type VersioningConfiguration struct {
	XMLName   xml.Name `xml:"VersioningConfiguration"`
	Xmlns     string   `xml:"xmlns,attr,omitempty"`
	Status    string   `xml:"Status,omitempty"`
	MFADelete string   `xml:"MfaDelete,omitempty"`
}

// Tagging is the body of Put- and GetObjectTagging.
type Tagging struct {
	XMLName xml.Name `xml:"Tagging"`
	Xmlns   string   `xml:"xmlns,attr,omitempty"`
	TagSet  *TagSet  `xml:"TagSet"` // an empty set removes all tags; a body without one says nothing
}

// TagSet is a list of tags.
type TagSet struct {
	Tags []Tag `xml:"Tag"`
}

// Tag is one tag.
type Tag struct {
	Key   string `xml:"Key"`
	Value string `xml:"Value"`
}

// PutACL is the body of PutBucketAcl and PutObjectAcl.
type PutACL struct {
	XMLName xml.Name   `xml:"AccessControlPolicy"`
	Grants  []PutGrant `xml:"AccessControlList>Grant"`
}

// PutGrant is one grant of PutACL. A grantee that is no user has no ID.
type PutGrant struct {
	ID         string `xml:"Grantee>ID"`
	Permission string `xml:"Permission"`
}
