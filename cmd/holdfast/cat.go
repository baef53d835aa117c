package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/spf13/cobra"
)

type catOptions struct {
	client  clientOptions
	version string
	span    string
}

func newCat(s *session) *cobra.Command {
	o := catOptions{}
	cmd := &cobra.Command{
		Use:     "cat BUCKET/KEY...",
		Short:   "Write objects to standard output",
		Example: "  holdfast cat photos/readme.txt\n  holdfast cat --range 0-99 backups/disk.img | xxd",
		Args:    betweenArgs(1, -1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runCat(cmd.Context(), s, &o, args) },
	}
	o.client.bind(cmd)
	cmd.Flags().StringVar(&o.version, "version-id", "", "read this `version` instead of the latest")
	cmd.Flags().StringVar(&o.span, "range", "", "read only these bytes: `FIRST-LAST`, FIRST- or -COUNT")
	return cmd
}

func runCat(ctx context.Context, s *session, o *catOptions, args []string) error {
	if o.span != "" && !isSpan(o.span) {
		return usageError(fmt.Errorf("--range %q is not FIRST-LAST, FIRST- or -COUNT", o.span))
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
		if p.key == "" {
			return usageError(fmt.Errorf("%q is a bucket; write BUCKET/KEY", argument))
		}
		input := s3.GetObjectInput{Bucket: &p.bucket, Key: &p.key}
		if o.version != "" {
			input.VersionId = &o.version
		}
		if o.span != "" {
			input.Range = new("bytes=" + o.span)
		}
		if err := catOne(ctx, client, &input, s.out); err != nil {
			return describe(p.String(), s3Error(o.client.endpoint, err))
		}
	}
	return nil
}

// isSpan tells whether text is a range of bytes. A gateway passes over one that is not, and sends the whole object.
func isSpan(text string) bool {
	from, to, ok := strings.Cut(text, "-")
	first, firstErr := strconv.ParseUint(from, 10, 63)
	last, lastErr := strconv.ParseUint(to, 10, 63)
	return ok && (from != "" || to != "") && (from == "" || firstErr == nil) && (to == "" || lastErr == nil) &&
		(from == "" || to == "" || first <= last)
}

func catOne(ctx context.Context, client *s3.Client, input *s3.GetObjectInput, w io.Writer) error {
	out, err := client.GetObject(ctx, input)
	if err != nil {
		return err
	}
	n, err := io.Copy(w, out.Body)
	if err == nil && out.ContentLength != nil && n != *out.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, out.Body.Close())
}
