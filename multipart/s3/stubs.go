package s3

import (
	"encoding/xml"
	"net/http"

	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

// stub is a sub-resource that is not built: its GET answers what S3 answers where nothing is configured, either a
// code or an empty document. With deletes, DELETE answers 204 as S3 does, for there is nothing to delete.
type stub struct {
	sub, name string // as in ?policy and GetBucketPolicy
	code      Code
	document  string
	text      string // inside of the document
	deletes   bool
}

var stubs = [...]stub{
	{sub: "policy", name: "Policy", code: "NoSuchBucketPolicy", deletes: true},
	{sub: "policyStatus", name: "PolicyStatus", code: "NoSuchBucketPolicy"},
	{sub: "cors", name: "Cors", code: "NoSuchCORSConfiguration", deletes: true},
	{sub: "website", name: "Website", code: "NoSuchWebsiteConfiguration", deletes: true},
	{sub: "lifecycle", name: "LifecycleConfiguration", code: "NoSuchLifecycleConfiguration", deletes: true},
	{sub: "tagging", name: "Tagging", code: "NoSuchTagSet", deletes: true},
	{sub: "replication", name: "Replication", code: "ReplicationConfigurationNotFoundError", deletes: true},
	{sub: "encryption", name: "Encryption", code: "ServerSideEncryptionConfigurationNotFoundError", deletes: true},
	{sub: "object-lock", name: "ObjectLockConfiguration", code: "ObjectLockConfigurationNotFoundError"},
	{sub: "ownershipControls", name: "OwnershipControls", code: "OwnershipControlsNotFoundError", deletes: true},
	{sub: "publicAccessBlock", name: "PublicAccessBlock", code: "NoSuchPublicAccessBlockConfiguration", deletes: true},
	{sub: "logging", name: "Logging", document: "BucketLoggingStatus"},
	{sub: "notification", name: "NotificationConfiguration", document: "NotificationConfiguration"},
	{sub: "accelerate", name: "AccelerateConfiguration", document: "AccelerateConfiguration"},
	{sub: "requestPayment", name: "RequestPayment", document: "RequestPaymentConfiguration", text: "<Payer>BucketOwner</Payer>"},
	{sub: "analytics", name: "AnalyticsConfiguration", document: "ListBucketAnalyticsConfigurationResult", text: "<IsTruncated>false</IsTruncated>"},
	{sub: "inventory", name: "InventoryConfiguration", document: "ListInventoryConfigurationsResult", text: "<IsTruncated>false</IsTruncated>"},
	{sub: "metrics", name: "MetricsConfiguration", document: "ListMetricsConfigurationsResult", text: "<IsTruncated>false</IsTruncated>"},
	{sub: "intelligent-tiering", name: "IntelligentTieringConfiguration", document: "ListBucketIntelligentTieringConfigurationsOutput", text: "<IsTruncated>false</IsTruncated>"},
}

// emptyDocument is an answer without elements of ours.
type emptyDocument struct {
	XMLName xml.Name
	Xmlns   string `xml:"xmlns,attr"`
	Text    string `xml:",innerxml"`
}

// stubRoutes makes the routes of the stubs, and of the canned ACLs.
func stubRoutes() []route {
	list := []route{
		{op: "GetBucketAcl", method: "GET", level: bucketLevel, subs: []string{"acl"}, handle: getACL},
		{op: "PutBucketAcl", method: "PUT", level: bucketLevel, subs: []string{"acl"}, handle: putACL},
		{op: "GetObjectAcl", method: "GET", level: objectLevel, subs: []string{"acl"}, handle: getObjectACL},
		{op: "PutObjectAcl", method: "PUT", level: objectLevel, subs: []string{"acl"}, handle: putObjectACL},
		{op: "GetObjectRetention", method: "GET", level: objectLevel, subs: []string{"retention"}, handle: noLock},
		{op: "GetObjectLegalHold", method: "GET", level: objectLevel, subs: []string{"legal-hold"}, handle: noLock},
	}
	for _, s := range stubs {
		list = append(list, route{op: "GetBucket" + s.name, method: "GET", level: bucketLevel, subs: []string{s.sub}, handle: s.get})
		if s.deletes {
			list = append(list, route{op: "DeleteBucket" + s.name, method: "DELETE", level: bucketLevel, subs: []string{s.sub}, handle: deleteNothing})
		}
	}
	return list
}

func (s stub) get(c *call) error {
	if s.code != "" {
		return s.code
	}
	if c.query.Has("id") {
		return Code("NoSuchConfiguration")
	}
	c.xml(http.StatusOK, emptyDocument{XMLName: xml.Name{Local: s.document}, Xmlns: xmlapi.Namespace, Text: s.text})
	return nil
}

func deleteNothing(c *call) error {
	c.empty(http.StatusNoContent)
	return nil
}

func getACL(c *call) error {
	o := owner(c.bucket.Owner)
	grantee := xmlapi.Grantee{XSI: "http://www.w3.org/2001/XMLSchema-instance", Type: "CanonicalUser", ID: o.ID, DisplayName: o.DisplayName}
	c.xml(http.StatusOK, xmlapi.ACL{Xmlns: xmlapi.Namespace, Owner: o, Grants: []xmlapi.Grant{{Grantee: grantee, Permission: "FULL_CONTROL"}}})
	return nil
}

// getObjectACL gives the same answer as getACL, if there is such an object.
func getObjectACL(c *call) error {
	object, err := c.open()
	if err != nil {
		return err
	}
	c.release(object)
	return getACL(c)
}

// putACL accepts what is so already and nothing else: a canned ACL that says so, or grants of full control to the owner
// alone, which clients read from a source and write to its copy.
func putACL(c *call) error {
	if err := c.checkACL(); err != nil {
		return err
	}
	data, err := c.body.all(xmlapi.MaxBody, true)
	if err != nil {
		return err
	}
	var policy xmlapi.PutACL
	if len(data) > 0 {
		if err := xmlapi.Unmarshal(data, &policy); err != nil {
			return err
		}
	}
	if len(policy.Grants) == 0 && c.header("X-Amz-Acl") == "" {
		return Code("AccessControlListNotSupported")
	}
	for _, grant := range policy.Grants {
		if grant.ID != owner(c.bucket.Owner).ID || grant.Permission != "FULL_CONTROL" {
			return Code("AccessControlListNotSupported")
		}
	}
	c.empty(http.StatusOK)
	return nil
}

func putObjectACL(c *call) error {
	object, err := c.open()
	if err != nil {
		return err
	}
	c.release(object)
	return putACL(c)
}

// noLock answers for retention and legal holds of objects in buckets without object lock.
func noLock(c *call) error {
	object, err := c.open()
	if err != nil {
		return err
	}
	c.release(object)
	return Code("NoSuchObjectLockConfiguration")
}
