package main

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newDrive(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drive",
		Short: "Look at drives, drain and remove them",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newDriveLs(s),
		newDriveAction(s, admin.Drain, "Move everything from a drive to the others", `Moves the shards of a drive to the others while everything goes on. A drive is named PEER/NAME; in a cluster of one
peer NAME is enough.`),
		newDriveAction(s, admin.Undrain, "Let a drained drive take part again", "Ends a drain: the drive takes new shards again."),
		newDriveAction(s, admin.Remove, "Remove a drive for ever", `Removes a drive that was drained, and with --force also one that is lost for good: what it held is made again from the
other shards.`))
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

func newDriveAction(s *session, action, short, long string) *cobra.Command {
	o := actionOptions{}
	cmd := &cobra.Command{
		Use:   action + " DRIVE",
		Short: short,
		Long:  long,
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAction(cmd.Context(), s, &o, args[0], action, (*admin.Client).ActOnDrive)
		},
	}
	o.bind(cmd, action)
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
	t := newTable("PEER", "DRIVE", "STATE", "USED", "FREE", "SHARDS", "HELD", "DAMAGED", "PATH")
	for _, d := range drives {
		state := d.State
		if d.Use != "" && d.Use != "active" {
			state += ", " + d.Use
		}
		t.add(d.Peer, d.Name, state, size(d.Total-d.Free), size(d.Free), humanize.Comma(d.Shards), size(d.Bytes), humanize.Comma(d.Damaged), d.Path)
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
