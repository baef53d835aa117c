package main

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func newDrive(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drive",
		Short: "Look at drives",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newDriveLs(s))
	return cmd
}

func newDriveLs(s *session) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the drives",
		Long:  "Lists the drives with state, space and what they hold. Below the table stands why one is not up, or takes no new shards.",
		Args:  exactArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runDriveLs(cmd.Context(), s, &o) },
	}
	o.bind(cmd)
	return cmd
}

func runDriveLs(ctx context.Context, s *session, o *lookOptions) error {
	client, err := s.adminClient(&o.client)
	if err != nil {
		return err
	}
	drives, err := client.Drives(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return s.printJSON(drives)
	}
	t := newTable("DRIVE", "STATE", "USED", "FREE", "SHARDS", "HELD", "DAMAGED", "PATH")
	for _, d := range drives {
		t.add(d.Name, d.State, size(d.Total-d.Free), size(d.Free), humanize.Comma(d.Shards), size(d.Bytes), humanize.Comma(d.Damaged), d.Path)
	}
	if err := t.print(s.out); err != nil {
		return err
	}
	for _, d := range drives {
		if d.Reason == "" {
			continue
		}
		if _, err := fmt.Fprintf(s.out, "%s: %s\n", d.Name, d.Reason); err != nil {
			return err
		}
	}
	return nil
}
