package s3

import (
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/multipart"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// attributeNames are what GetObjectAttributes may be asked for.
var attributeNames = [...]string{"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}

func getAttributes(c *call) error {
	wanted, err := c.wantedAttributes()
	if err != nil {
		return err
	}
	object, err := c.open()
	if err != nil {
		return err
	}
	defer c.release(object)
	v := object.Version()
	answer := xmlapi.Attributes{Xmlns: xmlapi.Namespace}
	if wanted["ETag"] {
		answer.ETag = v.ETag // without quotes here, and only here
	}
	if wanted["Checksum"] && len(v.Checksums) > 0 {
		answer.Checksum = &xmlapi.AttributesChecksum{Checksums: xmlapi.FromMap(bareChecksums(v.Checksums)), ChecksumType: v.ChecksumType}
	}
	if wanted["StorageClass"] {
		answer.StorageClass = storageClass(v.Headers)
	}
	if wanted["ObjectSize"] {
		answer.ObjectSize = &v.Size
	}
	if wanted["ObjectParts"] {
		if answer.ObjectParts, err = c.attributeParts(object); err != nil {
			return err
		}
	}
	c.showVersion(v.ID, v.Null)
	c.w.Header().Set("Last-Modified", v.Modified.UTC().Format(http.TimeFormat))
	c.xml(http.StatusOK, answer)
	return nil
}

// bareChecksums takes the number of parts from composite values: as with the quotes of ETags, S3 leaves it out here, and
// only here.
func bareChecksums(sums map[string]string) map[string]string {
	bare := map[string]string{}
	for name, value := range sums {
		bare[name], _, _ = strings.Cut(value, "-")
	}
	return bare
}

func (c *call) wantedAttributes() (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, line := range c.r.Header.Values("X-Amz-Object-Attributes") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); !slices.Contains(attributeNames[:], name) {
				return nil, Code("InvalidArgument").because("Invalid attribute name specified.")
			}
			wanted[name] = true
		}
	}
	if len(wanted) == 0 {
		return nil, Code("InvalidArgument").because("The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty.")
	}
	return wanted, nil
}

// attributeParts lists a page of parts; objects that were not uploaded in parts have none.
func (c *call) attributeParts(object multipart.Object) (*xmlapi.AttributesParts, error) {
	most, after := maxPage, 0
	var err error
	if v := c.header("X-Amz-Max-Parts"); v != "" {
		if most, err = parseNumber("max-parts", v, maxPage); err != nil {
			return nil, err
		}
	}
	if v := c.header("X-Amz-Part-Number-Marker"); v != "" {
		if after, err = parseNumber("part-number-marker", v, multipart.MaxParts); err != nil {
			return nil, err
		}
	}
	_, count, err := object.PartSpan(c.ctx(), 1)
	if err != nil || count == 0 {
		return nil, err
	}
	parts, err := object.Parts(c.ctx(), after, most+1)
	if err != nil {
		return nil, err
	}
	page := &xmlapi.AttributesParts{TotalPartsCount: count, PartNumberMarker: after, MaxParts: most, IsTruncated: len(parts) > most}
	for _, p := range parts[:min(len(parts), most)] {
		page.Parts = append(page.Parts, xmlapi.Part{PartNumber: p.Number, Size: p.Size, Checksums: xmlapi.FromMap(p.Checksums)})
		page.NextPartNumberMarker = p.Number
	}
	return page, nil
}
