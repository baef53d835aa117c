package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// problemsShown bounds the problems printed for a person; --json prints all.
const problemsShown = 100

type fsckOptions struct {
	look lookOptions
	deep bool
}

func newFsck(s *session) *cobra.Command {
	o := fsckOptions{}
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check that everything is where it should be",
		Long: `Walks all names and checks that every chunk they refer to has its shards on the drives that should hold them,
and counts what no name refers to. With --deep every byte of every shard is read and verified. What is
missing or damaged is handed to repair, which rebuilds it. Exit code 3 when something is wrong. Runs while the store is in use.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runFsck(cmd.Context(), s, &o) },
	}
	o.look.bind(cmd)
	cmd.Flags().BoolVar(&o.deep, "deep", false, "read and verify every byte")
	return cmd
}

func runFsck(ctx context.Context, s *session, o *fsckOptions) error {
	client, err := s.adminClient(&o.look.client)
	if err != nil {
		return err
	}
	show := s.fsckView(o.look.json)
	report, err := client.Fsck(ctx, o.deep, show)
	if err != nil {
		return err
	}
	if o.look.json {
		err = json.NewEncoder(s.out).Encode(admin.FsckEvent{Report: report})
	} else {
		_, err = fmt.Fprint(s.out, fsckText(report))
	}
	if err == nil && !report.Sound() {
		err = errUnsound
	}
	return err
}

// fsckView returns what shows each event: JSON lines for programs, else problems and a running line on a terminal.
func (s *session) fsckView(lines bool) func(admin.FsckEvent) {
	if lines {
		encoder := json.NewEncoder(s.out)
		return func(e admin.FsckEvent) {
			if err := encoder.Encode(e); err != nil {
				return // the report, written last, gives the same error
			}
		}
	}
	live := isTerminal(s.err)
	shown := 0
	return func(e admin.FsckEvent) {
		text := ""
		switch {
		case e.Problem != nil:
			shown++
			switch {
			case shown <= problemsShown:
				text = problemText(e.Problem) + "\n"
			case shown == problemsShown+1:
				text = "… more problems are not printed; see --json\n"
			}
			if live {
				text = clearLine + text
			}
		case e.Progress != nil && live:
			text = fmt.Sprintf("%s%s, %s, %s", clearLine, plural(e.Progress.Versions, "version"), plural(e.Progress.Chunks, "chunk"), size(e.Progress.Bytes))
		}
		if _, err := fmt.Fprint(s.err, text); err != nil {
			return // nobody reads it; the exit code still tells
		}
	}
}

// clearLine goes back to the start of a terminal's line and empties it.
const clearLine = "\r\x1b[K"

func problemText(p *admin.FsckProblem) string {
	where := ""
	if p.Bucket != "" {
		where = " hf://" + p.Bucket + "/" + printable(p.Key)
		if p.Version != "" {
			where += " version " + p.Version
		}
	}
	if p.Chunk != "" {
		where += " chunk " + p.Chunk
	}
	return fmt.Sprintf("%s:%s: %s", p.Kind, where, printable(p.Detail))
}

func fsckText(r *admin.FsckReport) string {
	var b strings.Builder
	verb := "checked"
	if r.Deep {
		verb = "read and verified"
	}
	fmt.Fprintf(&b, "%s %s, %s, %s, %s in %s\n", verb, plural(r.Versions, "version"), plural(r.Chunks, "chunk"), plural(r.Shards, "shard"),
		size(r.Bytes), r.Took.Round(time.Millisecond))
	fmt.Fprintf(&b, "  lost        %s\n", plural(r.Lost, "chunk"))
	fmt.Fprintf(&b, "  degraded    %s\n", plural(r.Degraded, "chunk"))
	fmt.Fprintf(&b, "  unreadable  %s\n", plural(r.Unreadable, "record"))
	fmt.Fprintf(&b, "  waiting     %s to be deleted, %s for sweep, %s not published\n", plural(r.Freed, "freed row"),
		plural(r.Shared, "shared row"), plural(r.Staged, "staged file"))
	fmt.Fprintf(&b, "  orphans     %s (%s), for sweep\n", plural(r.Orphans, "shard"), size(r.OrphanBytes))
	if r.DrivesDown > 0 {
		fmt.Fprintf(&b, "  %s could not be asked\n", plural(int64(r.DrivesDown), "drive"))
	}
	if r.Sound() {
		b.WriteString("all is well\n")
	} else {
		b.WriteString("SOMETHING IS WRONG\n")
	}
	return b.String()
}
