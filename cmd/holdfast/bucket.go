package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/spf13/cobra"
)

type bucketOptions struct {
	client clientOptions
	json   bool
}

func newBucket(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bucket",
		Short: "Make, list and remove buckets",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newBucketCreate(s), newBucketLs(s), newBucketRm(s), newBucketVersioning(s))
	return cmd
}

// needsSubcommand shows the help of a command that only holds others.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Errorf("unknown command %q; see `%s --help`", args[0], cmd.CommandPath()))
	}
	return cmd.Help()
}

func newBucketCreate(s *session) *cobra.Command {
	o := bucketOptions{}
	cmd := &cobra.Command{
		Use:     "create BUCKET...",
		Short:   "Make buckets",
		Example: "  holdfast bucket create photos",
		Args:    betweenArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.eachBucket(cmd.Context(), &o, args, func(ctx context.Context, c *s3.Client, name string) error {
				_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
				return err
			})
		},
	}
	o.client.bind(cmd)
	return cmd
}

func newBucketRm(s *session) *cobra.Command {
	o := bucketOptions{}
	cmd := &cobra.Command{
		Use:   "rm BUCKET...",
		Short: "Remove empty buckets",
		Long:  "Removes buckets that hold no object or version. Uploads that are under way in one end with it. Empty one first with `holdfast rm -r BUCKET`.",
		Args:  betweenArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.eachBucket(cmd.Context(), &o, args, func(ctx context.Context, c *s3.Client, name string) error {
				_, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name})
				return err
			})
		},
	}
	o.client.bind(cmd)
	return cmd
}

func (s *session) eachBucket(ctx context.Context, o *bucketOptions, names []string, do func(context.Context, *s3.Client, string) error) error {
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := parseRemote(name)
		if err != nil {
			return err
		}
		if p.key != "" {
			return usageError(fmt.Errorf("%q is an object, not a bucket", name))
		}
		if err := do(ctx, client, p.bucket); err != nil {
			return describe("bucket "+p.bucket, s3Error(o.client.endpoint, err))
		}
	}
	return nil
}

// describe puts what was worked on before an error, keeping its exit code.
func describe(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

func newBucketLs(s *session) *cobra.Command {
	o := bucketOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the buckets",
		Args:  exactArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runBucketLs(cmd.Context(), s, &o) },
	}
	o.client.bind(cmd)
	bindJSON(cmd, &o.json)
	return cmd
}

type bucketRow struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

func runBucketLs(ctx context.Context, s *session, o *bucketOptions) error {
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	out, err := client.ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		return s3Error(o.client.endpoint, err)
	}
	rows := make([]bucketRow, 0, len(out.Buckets))
	for _, b := range out.Buckets {
		rows = append(rows, bucketRow{aws.ToString(b.Name), aws.ToTime(b.CreationDate)})
	}
	if o.json {
		return s.printJSON(rows)
	}
	t := newTable("CREATED", "BUCKET")
	for _, r := range rows {
		t.add(stamp(r.Created), r.Name)
	}
	return t.print(s.out)
}

func newBucketVersioning(s *session) *cobra.Command {
	o := bucketOptions{}
	cmd := &cobra.Command{
		Use:   "versioning BUCKET [on|suspended]",
		Short: "Show or set whether a bucket keeps old versions",
		Long: `Without a second argument prints off, on or suspended. Once on, overwriting or deleting an object keeps its
older versions; it can be suspended again, but never be off as if it had not been.`,
		Args: betweenArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return runBucketVersioning(cmd.Context(), s, &o, args) },
	}
	o.client.bind(cmd)
	bindJSON(cmd, &o.json)
	return cmd
}

func runBucketVersioning(ctx context.Context, s *session, o *bucketOptions, args []string) error {
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	p, err := parseRemote(args[0])
	if err != nil {
		return err
	}
	if len(args) == 1 {
		out, err := client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &p.bucket})
		if err != nil {
			return describe("bucket "+p.bucket, s3Error(o.client.endpoint, err))
		}
		state := "off"
		switch out.Status {
		case types.BucketVersioningStatusEnabled:
			state = "on"
		case types.BucketVersioningStatusSuspended:
			state = "suspended"
		}
		if o.json {
			return s.printJSON(map[string]string{"bucket": p.bucket, "versioning": state})
		}
		_, err = fmt.Fprintln(s.out, state)
		return err
	}
	status := types.BucketVersioningStatusEnabled
	switch args[1] {
	case "on":
	case "suspended":
		status = types.BucketVersioningStatusSuspended
	default:
		return usageError(fmt.Errorf("versioning is on or suspended, not %q", args[1]))
	}
	_, err = client.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket: &p.bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: status},
	})
	return describe("bucket "+p.bucket, s3Error(o.client.endpoint, err))
}
