package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// session is what every command shares: where it writes, and what it was told.
type session struct {
	streams
	self   string // what the program was called as
	config configuration
	log    logOptions
}

// run is the whole program: it returns the exit code. args[0] is the name it was called by.
func run(ctx context.Context, args []string, io streams, lookup func(string) (string, bool)) int {
	s := &session{streams: io, self: "holdfast", config: configuration{lookup: lookup}}
	if len(args) > 0 {
		s.self = args[0]
	}
	root := newRoot(s)
	root.SetArgs(commandLine(args))
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	err := root.ExecuteContext(ctx)
	return report(io.err, ctx, err)
}

// commandLine lets the binary be called as mount.holdfast, which is how mount(8) and fstab start it:
// mount.holdfast BUCKET DIR -sfnv -N NAMESPACE -t TYPE -o options. All but -o says nothing to a mount of ours.
func commandLine(args []string) []string {
	if len(args) > 0 && filepath.Base(args[0]) == "mount.holdfast" {
		line := []string{"mount", "--daemon"}
		for rest := args[1:]; len(rest) > 0; rest = rest[1:] {
			switch {
			case (rest[0] == "-N" || rest[0] == "-t") && len(rest) > 1:
				rest = rest[1:]
			case len(rest[0]) > 1 && rest[0][0] == '-' && strings.Trim(rest[0][1:], "sfnv") == "":
			default:
				line = append(line, rest[0])
			}
		}
		return line
	}
	if len(args) == 0 {
		return nil
	}
	return args[1:]
}

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Keep objects safe on ordinary drives and see them as directories",
		Long: `holdfast keeps buckets of objects on twelve drives, cut into 8 data and 4 parity shards so that any
four drives may be lost, serves them to S3 clients, and mounts them as directories.

Begin on this machine with:   holdfast up --mount ./mnt
Then, in another terminal:    holdfast status

Each setting is taken from the flag, else from HOLDFAST_NAME in the environment (HOLDFAST_S3 for --s3),
else from the YAML file of --config, else its default.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError(fmt.Errorf("unknown command %q; `holdfast --help` lists the commands", args[0]))
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.config.resolve(cmd); err != nil {
				return err
			}
			_, err := s.log.logger(s.err) // a wrong level or format is an error of every command
			return err
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath()))
	})
	s.config.bind(root)
	s.log.bind(root)
	root.AddGroup(
		&cobra.Group{ID: "serve", Title: "Serve:"},
		&cobra.Group{ID: "use", Title: "Use:"},
		&cobra.Group{ID: "look", Title: "Look after it:"},
	)
	root.SetHelpCommandGroupID("look")
	addTo(root, "serve", newUp(s), newServer(s), newMount(s), newUmount(s))
	addTo(root, "use", newBucket(s), newLs(s), newCp(s), newCat(s), newRm(s), newCreds(s))
	addTo(root, "look", newStatus(s), newCluster(s), newPeer(s), newTablet(s), newDrive(s), newVolume(s), newFsck(s), newBench(s), newVersion(s), newCompletion(s))
	return root
}

func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// exactArgs is cobra.ExactArgs with a sentence that names the arguments.
func exactArgs(n int) cobra.PositionalArgs { return betweenArgs(n, n) }

func betweenArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || (most >= 0 && len(args) > most) {
			return usageError(fmt.Errorf("usage: %s", cmd.UseLine()))
		}
		return nil
	}
}
