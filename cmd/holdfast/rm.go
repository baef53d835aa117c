package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/spf13/cobra"
)

// deleteBatch is the most keys of one DeleteObjects request.
const deleteBatch = 1000

type rmOptions struct {
	client    clientOptions
	recursive bool
	versions  bool
	version   string
	quiet     bool
}

func newRm(s *session) *cobra.Command {
	o := rmOptions{}
	cmd := &cobra.Command{
		Use:   "rm BUCKET/KEY...",
		Short: "Remove objects",
		Long: `Removes objects. With -r removes every object whose key begins with the given prefix; BUCKET alone, with -r,
empties the bucket. In a bucket that keeps versions the older ones stay; --versions removes all of them for good.`,
		Example: "  holdfast rm photos/blurred.jpg\n  holdfast rm -r photos/2019/",
		Args:    betweenArgs(1, -1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runRm(cmd.Context(), s, &o, args) },
	}
	o.client.bind(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&o.recursive, "recursive", "r", false, "remove every object below the prefix")
	flags.BoolVar(&o.versions, "versions", false, "with -r, remove all versions and delete markers for good")
	flags.StringVar(&o.version, "version-id", "", "remove this `version` for good")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "do not say how many were removed")
	return cmd
}

func runRm(ctx context.Context, s *session, o *rmOptions, args []string) error {
	if o.versions && !o.recursive {
		return usageError(errors.New("--versions goes with -r"))
	}
	if o.version != "" && (o.recursive || len(args) > 1) {
		return usageError(errors.New("--version-id goes with one object"))
	}
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	for _, argument := range args {
		p, err := parseRemote(argument)
		if err != nil {
			return err
		}
		if err := s.rmPlace(ctx, client, o, p); err != nil {
			return describe(p.String(), s3Error(o.client.endpoint, err))
		}
	}
	return nil
}

func (s *session) rmPlace(ctx context.Context, client *s3.Client, o *rmOptions, p place) error {
	if o.recursive {
		n, err := removeBelow(ctx, client, p, o.versions)
		if err != nil || o.quiet {
			return err
		}
		_, err = fmt.Fprintf(s.out, "removed %s\n", plural(n, "object"))
		return err
	}
	if p.key == "" {
		return usageError(fmt.Errorf("%s is a bucket: `holdfast rm -r` empties it, `holdfast bucket rm` removes it", p.bucket))
	}
	input := s3.DeleteObjectInput{Bucket: &p.bucket, Key: &p.key}
	if o.version != "" {
		input.VersionId = &o.version
	} else if _, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &p.bucket, Key: &p.key}); err != nil {
		return err // S3 says nothing of a key that was not there; a person mistyped it
	}
	_, err := client.DeleteObject(ctx, &input)
	return err
}

// removeBelow removes everything that begins with p and returns how much that was.
func removeBelow(ctx context.Context, client *s3.Client, p place, versions bool) (int64, error) {
	var removed int64
	var batch []types.ObjectIdentifier
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		out, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: &p.bucket, Delete: &types.Delete{Objects: batch, Quiet: aws.Bool(true)},
		})
		if err != nil {
			return err
		}
		if len(out.Errors) > 0 {
			first := out.Errors[0]
			return fmt.Errorf("%s: %s (%s); %d of %d were not removed", aws.ToString(first.Key), aws.ToString(first.Message),
				aws.ToString(first.Code), len(out.Errors), len(batch))
		}
		removed += int64(len(batch))
		batch = nil
		return nil
	}
	list := listObjects
	if versions {
		list = listVersions
	}
	err := list(ctx, client, p, nil, func(r lsRow) error {
		id := types.ObjectIdentifier{Key: &r.Key}
		if versions {
			id.VersionId = &r.Version
		}
		batch = append(batch, id)
		if len(batch) < deleteBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return removed, err
}
