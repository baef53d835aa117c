package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

type cpOptions struct {
	client    clientOptions
	recursive bool
	parallel  int
	partSize  string
	quiet     bool
}

func newCp(s *session) *cobra.Command {
	o := cpOptions{}
	cmd := &cobra.Command{
		Use:   "cp SOURCE... TARGET",
		Short: "Copy between local files and objects, or between objects",
		Long: `Copies files to objects, objects to files, or objects to objects (which moves no byte). Large ones go in
parallel parts. With -r copies everything below SOURCE to below TARGET.

How an argument is read depends on its spelling alone:
  hf://BUCKET/KEY        an object, or a prefix with -r
  /path  ./path  ../path a local file or directory
  word                   (no slash) a local file or directory
  BUCKET/KEY             anything else is an object
  -                      standard input or output

A TARGET that ends with "/" (or is a bucket) keeps the source's name. A download is written beside its target,
synced, and renamed into place, so a target is never half written.`,
		Example: "  holdfast cp ./film.mkv home/films/\n  holdfast cp -r ./photos hf://photos\n  holdfast cp -r photos/2026/ ./2026\n" +
			"  tar c . | holdfast cp - backups/today.tar",
		Args: betweenArgs(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return runCp(cmd.Context(), s, &o, args) },
	}
	o.client.bind(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&o.recursive, "recursive", "r", false, "copy directories and prefixes")
	flags.IntVarP(&o.parallel, "parallel", "j", 8, "how many `requests` run at once")
	flags.StringVar(&o.partSize, "part-size", "16MiB", "`size` of the parts of large objects, at least 5MiB")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but errors")
	setting(flags, "parallel", "part-size")
	return cmd
}

func runCp(ctx context.Context, s *session, o *cpOptions, args []string) error {
	places := make([]place, len(args))
	for i, argument := range args {
		var err error
		if places[i], err = parsePlace(argument); err != nil {
			return err
		}
	}
	sources, target := places[:len(places)-1], places[len(places)-1]
	if len(sources) > 1 && !target.holdsMany() {
		return usageError(fmt.Errorf("with several sources the target must be a bucket or end with /: %q", args[len(args)-1]))
	}
	partSize, err := parseBytes("--part-size", o.partSize)
	if err != nil {
		return err
	}
	if partSize < minPart || partSize > maxPart || o.parallel < 1 || o.parallel > connections {
		return usageError(fmt.Errorf("--part-size is 5MiB to 5GiB and --parallel 1 to %d", connections))
	}
	client, err := s.s3Client(&o.client)
	if err != nil {
		return err
	}
	t := newTransfer(client, o.client.endpoint, o.parallel, partSize, s.progress(o.quiet))
	var jobs []job
	for _, source := range sources {
		more, err := s.plan(ctx, t, o, source, target)
		if err != nil {
			return describe(source.String(), s3Error(o.client.endpoint, err))
		}
		jobs = append(jobs, more...)
	}
	err = t.run(ctx, jobs)
	return errors.Join(err, t.bar.finish())
}

// holdsMany tells whether several sources can go to p under their own names.
func (p place) holdsMany() bool {
	if p.local {
		return p.path != "-" && (strings.HasSuffix(p.path, "/") || isDirectory(p.path))
	}
	return p.key == "" || strings.HasSuffix(p.key, "/")
}

// plan lists the single copies that a source asks for.
func (s *session) plan(ctx context.Context, t *transfer, o *cpOptions, source, target place) ([]job, error) {
	switch {
	case source.local && target.local && source.path != "-" && target.path != "-":
		return nil, usageError(fmt.Errorf("both ends are local; write hf://BUCKET/KEY for an object"))
	case source.local && source.path == "-":
		if target.local || target.holdsMany() {
			return nil, usageError(errors.New("standard input needs the name of an object to go to"))
		}
		return []job{streamUpload(s.in, target)}, nil
	case target.local && target.path == "-":
		if source.local || source.key == "" || o.recursive {
			return nil, usageError(errors.New("standard output takes one object"))
		}
		return []job{streamDownload(source, s.out)}, nil
	case source.local:
		return planUploads(source.path, target, o.recursive)
	case o.recursive:
		return t.planBelow(ctx, source, target)
	}
	return t.planOne(ctx, source, target)
}

// named is the target of one copy: with the name of the source where the target holds many.
func named(target place, name string) place {
	if !target.holdsMany() {
		return target
	}
	if target.local {
		target.path = filepath.Join(target.path, name)
		return target
	}
	target.key += name
	return target
}

// below is the place of a relative slash-separated name under a target of -r.
func below(target place, name string) (place, error) {
	if !target.local {
		if target.key != "" && !strings.HasSuffix(target.key, "/") {
			target.key += "/"
		}
		target.key += name
		return target, nil
	}
	// A key may be anything; it must not lead out of the directory.
	if !filepath.IsLocal(filepath.FromSlash(strings.TrimSuffix(name, "/"))) {
		return place{}, fmt.Errorf("key %q is no file name below %s", name, target.path)
	}
	target.path = filepath.Join(target.path, filepath.FromSlash(name))
	return target, nil
}

func (t *transfer) planOne(ctx context.Context, source, target place) ([]job, error) {
	if source.key == "" || strings.HasSuffix(source.key, "/") && target.local {
		return nil, usageError(fmt.Errorf("%s is a prefix; copy what is below it with -r", source))
	}
	info, err := t.head(ctx, source)
	if err != nil {
		return nil, err
	}
	return []job{copyOrDownload(source, named(target, path.Base(source.key)), info)}, nil
}

// planBelow lists the objects below a prefix. The part of the key up to the last "/" of the prefix is left out.
func (t *transfer) planBelow(ctx context.Context, source, target place) ([]job, error) {
	var jobs []job
	if source.key != "" && !strings.HasSuffix(source.key, "/") {
		source.key += "/"
	}
	err := listObjects(ctx, t.client, source, nil, func(r lsRow) error {
		name := strings.TrimPrefix(r.Key, source.key)
		if name == "" {
			return nil // the marker of the directory itself
		}
		to, err := below(target, name)
		if err != nil {
			return err
		}
		from := place{bucket: source.bucket, key: r.Key}
		if to.local && strings.HasSuffix(name, "/") {
			jobs = append(jobs, makeDirectory(to.path))
			return nil
		}
		jobs = append(jobs, copyOrDownload(from, to, objectInfo{size: r.Size, etag: r.ETag}))
		return nil
	})
	if err == nil && len(jobs) == 0 {
		err = &exitCode{exitNotFound, errors.New("no object has this prefix")}
	}
	return jobs, err
}

func copyOrDownload(from, to place, info objectInfo) job {
	if to.local {
		return download(from, to.path, info)
	}
	return remoteCopy(from, to, info)
}

var _ io.Writer = (*progress)(nil)
