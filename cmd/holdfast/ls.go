package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/spf13/cobra"
)

type lsOptions struct {
	client    clientOptions
	recursive bool
	versions  bool
	json      bool
}

func newLs(s *session) *cobra.Command {
	o := lsOptions{}
	cmd := &cobra.Command{
		Use:   "ls [BUCKET[/PREFIX]]",
		Short: "List buckets or objects",
		Long: `Without an argument lists the buckets. BUCKET/PREFIX lists what is directly below the prefix, with a line for
each common prefix up to the next "/"; with -r every object whose key begins with it. With --json, each object is
one line.`,
		Example: "  holdfast ls\n  holdfast ls photos/2026/\n  holdfast ls -r --json photos | jq .size",
		Args:    betweenArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return runBucketLs(cmd.Context(), s, &bucketOptions{client: o.client, json: o.json})
			}
			return runLs(cmd.Context(), s, &o, args[0])
		},
	}
	o.client.bind(cmd)
	cmd.Flags().BoolVarP(&o.recursive, "recursive", "r", false, "list every object below the prefix")
	cmd.Flags().BoolVar(&o.versions, "versions", false, "list old versions and delete markers too")
	bindJSON(cmd, &o.json)
	return cmd
}

// lsRow is one line of ls: an object, a common prefix, or a version.
type lsRow struct {
	Key      string     `json:"key,omitempty"`
	Prefix   string     `json:"prefix,omitempty"`
	Size     int64      `json:"size"`
	Modified *time.Time `json:"modified,omitempty"`
	ETag     string     `json:"etag,omitempty"`
	Version  string     `json:"version,omitempty"`
	Latest   bool       `json:"latest,omitempty"`
	Marker   bool       `json:"delete_marker,omitempty"`
}

func runLs(ctx context.Context, s *session, o *lsOptions, argument string) error {
	p, err := parseRemote(argument)
	if err != nil {
		return err
	}
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	var delimiter *string
	if !o.recursive {
		delimiter = aws.String("/")
	}
	show := s.printRow
	if o.json {
		encoder := json.NewEncoder(s.out)
		encoder.SetEscapeHTML(false)
		show = func(r lsRow) error { return encoder.Encode(r) }
	}
	list := listObjects
	if o.versions {
		list = listVersions
	}
	shown := 0
	err = list(ctx, client, p, delimiter, func(r lsRow) error { shown++; return show(r) })
	if err != nil {
		return describe(p.String(), s3Error(o.client.endpoint, err))
	}
	if shown == 0 && p.key != "" {
		return &exitCode{exitNotFound, fmt.Errorf("%s: no object has this prefix", p)}
	}
	return nil
}

func (s *session) printRow(r lsRow) error {
	name, when, bytes := r.Key, "", size(r.Size)
	if r.Prefix != "" {
		name, bytes = r.Prefix, "DIR"
	}
	if r.Modified != nil {
		when = stamp(*r.Modified)
	}
	if r.Marker {
		bytes = "DELETED"
	}
	line := fmt.Sprintf("%19s  %10s  %s", when, bytes, printable(name))
	if r.Version != "" {
		line += "  " + r.Version
		if r.Latest {
			line += " (latest)"
		}
	}
	_, err := fmt.Fprintln(s.out, line)
	return err
}

// listObjects shows every current object, page after page.
func listObjects(ctx context.Context, c *s3.Client, p place, delimiter *string, show func(lsRow) error) error {
	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: &p.bucket, Prefix: &p.key, Delimiter: delimiter})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, prefix := range page.CommonPrefixes {
			if err := show(lsRow{Prefix: aws.ToString(prefix.Prefix)}); err != nil {
				return err
			}
		}
		for _, object := range page.Contents {
			if err := show(objectRow(object)); err != nil {
				return err
			}
		}
	}
	return nil
}

func objectRow(o types.Object) lsRow {
	return lsRow{Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: o.LastModified, ETag: unquote(o.ETag)}
}

func listVersions(ctx context.Context, c *s3.Client, p place, delimiter *string, show func(lsRow) error) error {
	pages := s3.NewListObjectVersionsPaginator(c, &s3.ListObjectVersionsInput{Bucket: &p.bucket, Prefix: &p.key, Delimiter: delimiter})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, prefix := range page.CommonPrefixes {
			if err := show(lsRow{Prefix: aws.ToString(prefix.Prefix)}); err != nil {
				return err
			}
		}
		for _, v := range page.Versions {
			row := lsRow{Key: aws.ToString(v.Key), Size: aws.ToInt64(v.Size), Modified: v.LastModified, ETag: unquote(v.ETag),
				Version: aws.ToString(v.VersionId), Latest: aws.ToBool(v.IsLatest)}
			if err := show(row); err != nil {
				return err
			}
		}
		for _, m := range page.DeleteMarkers {
			row := lsRow{Key: aws.ToString(m.Key), Modified: m.LastModified, Version: aws.ToString(m.VersionId),
				Latest: aws.ToBool(m.IsLatest), Marker: true}
			if err := show(row); err != nil {
				return err
			}
		}
	}
	return nil
}

func unquote(etag *string) string {
	text := aws.ToString(etag)
	if len(text) >= 2 && text[0] == '"' {
		return text[1 : len(text)-1]
	}
	return text
}
