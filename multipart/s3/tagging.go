package s3

import (
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/multipart/s3/xmlapi"
)

func getTagging(c *call) error {
	object, err := c.open()
	if err != nil {
		return err
	}
	v := object.Version()
	c.release(object)
	c.showVersion(v.ID, v.Null)
	set := &xmlapi.TagSet{}
	for key, value := range v.Tags {
		set.Tags = append(set.Tags, xmlapi.Tag{Key: key, Value: value})
	}
	slices.SortFunc(set.Tags, func(a, b xmlapi.Tag) int { return strings.Compare(a.Key, b.Key) })
	c.xml(http.StatusOK, xmlapi.Tagging{Xmlns: xmlapi.Namespace, TagSet: set})
	return nil
}

func putTagging(c *call) error {
	var request xmlapi.Tagging
	if err := c.readXML(&request, xmlapi.MaxBody); err != nil {
		return err
	}
	if request.TagSet == nil {
		return Code("MalformedXML")
	}
	tags := map[string]string{}
	for _, tag := range request.TagSet.Tags {
		if _, twice := tags[tag.Key]; twice {
			return Code("InvalidTag").because("Cannot provide multiple Tags with the same key.")
		}
		tags[tag.Key] = tag.Value
	}
	if err := checkTags(tags); err != nil {
		return err
	}
	return c.setTags(tags, http.StatusOK)
}

func deleteTagging(c *call) error { return c.setTags(nil, http.StatusNoContent) }

func (c *call) setTags(tags map[string]string, status int) error {
	at, err := c.at()
	if err != nil {
		return err
	}
	v, err := c.store().SetTags(c.ctx(), c.bucket.ID, c.key, at, tags)
	if err != nil {
		return err
	}
	c.showVersion(v.ID, v.Null)
	c.empty(status)
	return nil
}
