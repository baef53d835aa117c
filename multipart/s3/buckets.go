package s3

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/metadata"
	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// maxBuckets is the most that one page of ListBuckets holds: S3's.
const maxBuckets = 10_000

func listBuckets(c *call) error {
	most, err := c.number("max-buckets", maxBuckets, maxBuckets)
	if err != nil {
		return err
	}
	if most == 0 {
		return Code("InvalidArgument").because("max-buckets must be between 1 and 10000.")
	}
	all, err := c.store().Buckets(c.ctx())
	if err != nil {
		return err
	}
	prefix, after := c.query.Get("prefix"), ""
	if token := c.query.Get("continuation-token"); token != "" {
		if after, err = openToken(token, 0, prefix, ""); err != nil {
			return err
		}
	}
	result := xmlapi.ListBuckets{Xmlns: xmlapi.Namespace, Owner: owner(c.who.AccessKey), Prefix: prefix}
	slices.SortFunc(all, func(a, b metadata.Bucket) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range all {
		if !strings.HasPrefix(b.Name, prefix) || b.Name <= after {
			continue
		}
		if len(result.Buckets) == most {
			result.ContinuationToken = sealToken(0, prefix, "", result.Buckets[most-1].Name)
			break
		}
		result.Buckets = append(result.Buckets, xmlapi.Bucket{Name: b.Name, CreationDate: xmlapi.Time(b.Created), BucketRegion: c.server.config.Region})
	}
	c.xml(http.StatusOK, result)
	return nil
}

func createBucket(c *call) error {
	if err := c.checkACL(); err != nil {
		return err
	}
	if ownership := c.header("X-Amz-Object-Ownership"); ownership != "" && ownership != "BucketOwnerEnforced" {
		return Code("NotImplemented") // the other two are about ACLs
	}
	data, err := c.body.all(xmlapi.MaxBody, true)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		// Any location is accepted: a client that thinks it is in a region need not be told otherwise.
		var config xmlapi.CreateBucketConfiguration
		if err := xmlapi.Unmarshal(data, &config); err != nil {
			return err
		}
		if config.Tags != nil && len(config.Tags.Tags) > 0 {
			return Code("NotImplemented") // as PutBucketTagging: tags must not be taken and lost
		}
	}
	_, err = c.store().CreateBucket(c.ctx(), c.bucketName, c.who.AccessKey)
	if errors.Is(err, metadata.ErrBucketExists) {
		if b, lookup := c.store().Bucket(c.ctx(), c.bucketName); lookup == nil && b.Owner == c.who.AccessKey {
			return Code("BucketAlreadyOwnedByYou")
		}
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", "/"+c.bucketName)
	c.empty(http.StatusOK)
	return nil
}

func headBucket(c *call) error {
	c.w.Header().Set("X-Amz-Bucket-Region", c.server.config.Region)
	c.empty(http.StatusOK)
	return nil
}

func deleteBucket(c *call) error {
	if err := c.store().DeleteBucket(c.ctx(), c.bucketName); err != nil {
		return err
	}
	c.empty(http.StatusNoContent)
	return nil
}

func getLocation(c *call) error {
	region := c.server.config.Region
	if region == "us-east-1" {
		region = "" // S3's oldest region has no name here
	}
	c.xml(http.StatusOK, xmlapi.Location{Xmlns: xmlapi.Namespace, Region: region})
	return nil
}

func getVersioning(c *call) error {
	answer := xmlapi.VersioningConfiguration{Xmlns: xmlapi.Namespace}
	switch c.bucket.Versioning {
	case metadata.VersioningEnabled:
		answer.Status = "Enabled"
	case metadata.VersioningSuspended:
		answer.Status = "Suspended"
	}
	c.xml(http.StatusOK, answer)
	return nil
}

func putVersioning(c *call) error {
	var config xmlapi.VersioningConfiguration
	if err := c.readXML(&config, xmlapi.MaxBody); err != nil {
		return err
	}
	if config.MFADelete == "Enabled" {
		return Code("NotImplemented")
	}
	var state metadata.Versioning
	switch config.Status {
	case "Enabled":
		state = metadata.VersioningEnabled
	case "Suspended":
		state = metadata.VersioningSuspended
	default:
		return Code("IllegalVersioningConfigurationException")
	}
	if err := c.store().SetVersioning(c.ctx(), c.bucketName, state); err != nil {
		return err
	}
	c.empty(http.StatusOK)
	return nil
}

// checkACL accepts the ACLs that say what is so anyway: everything belongs to the bucket's owner.
func (c *call) checkACL() error {
	switch c.header("X-Amz-Acl") {
	case "", "private", "bucket-owner-full-control", "bucket-owner-read":
	default:
		return Code("AccessControlListNotSupported")
	}
	for _, name := range []string{"Full-Control", "Read", "Read-Acp", "Write", "Write-Acp"} {
		if c.header("X-Amz-Grant-"+name) != "" {
			return Code("AccessControlListNotSupported")
		}
	}
	return nil
}
