package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newDrive(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drive",
		Short: "Look at drives, add, drain and remove them",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newDriveLs(s), newDriveAdd(s),
		newDriveAction(s, admin.Drain, "Move everything from a drive to the others", `Moves the shards of a drive to the others while everything goes on. A drive is named PEER/NAME; in a cluster of one
peer NAME is enough.`),
		newDriveAction(s, admin.Undrain, "Let a drained drive take part again", "Ends a drain: the drive takes new shards again."),
		newDriveAction(s, admin.Remove, "Remove a drive for ever", `Removes a drive that was drained, and with --force also one that is lost for good: what it held is made again from the
other shards.`))
	return cmd
}

func newDriveLs(s *session) *cobra.Command {
	return newListing(s, "List the drives",
		"Lists the drives with state, space and what they hold. Below the table stands why one is not up, or takes no new shards.",
		(*admin.Client).Drives, printDrives)
}

func newDriveAction(s *session, action, short, long string) *cobra.Command {
	o := actionOptions{}
	cmd := &cobra.Command{
		Use:   action + " DRIVE",
		Short: short,
		Long:  long,
		Args:  exactArgs(1),
		ValidArgsFunction: s.completeFrom(&o.look.client, func(st *admin.Status) []string {
			var names []string
			for _, d := range st.Drives {
				names = append(names, driveName(st.Peers, &d))
			}
			return names
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAction(cmd.Context(), s, &o, args[0], action, (*admin.Client).ActOnDrive)
		},
	}
	o.bind(cmd, action)
	return cmd
}

// printDrives writes the table, and below it why a drive is not as it should be.
func printDrives(w io.Writer, drives []admin.Drive) error {
	t := newTable("PEER", "DRIVE", "STATE", "USED", "FREE", "SHARDS", "HELD", "DAMAGED", "PATH")
	for _, d := range drives {
		state := d.State
		switch d.Use {
		case "", "active":
		case "removed":
			state = d.Use // whatever it is, nobody asks it for anything
		default:
			state += ", " + d.Use
		}
		if d.State == "up" || d.Bytes > 0 {
			t.add(cmp.Or(d.Peer, "-"), d.Name, state, size(d.Total-d.Free), size(d.Free), humanize.Comma(d.Shards), size(d.Bytes), humanize.Comma(d.Damaged), d.Path)
		} else {
			t.add(cmp.Or(d.Peer, "-"), d.Name, state, "-", "-", "-", "-", "-", d.Path) // nobody can tell
		}
	}
	if err := t.print(w); err != nil {
		return err
	}
	for _, d := range drives {
		if d.Reason == "" {
			continue
		}
		name := d.Name
		if d.Peer != "" && d.Peer != drives[0].Peer || d.Peer != drives[len(drives)-1].Peer {
			name = d.Peer + "/" + d.Name
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", name, d.Reason); err != nil {
			return err
		}
	}
	return nil
}

// driveName is what a person calls a drive: its name, with that of its peer where there are several.
func driveName(peers []admin.Peer, d *admin.Drive) string {
	if len(peers) > 1 {
		return d.Peer + "/" + d.Name
	}
	return d.Name
}

func newDriveAdd(s *session) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "add DIR...",
		Short: "Make drives of empty directories",
		Long: `Makes a drive of each empty directory, on the peer that is asked. The directory must be one of the peer's --drives, as
an absolute path: to replace a drive that died, mount the new device at the old place; for more drives than before, start
the peer with a longer --drives first. Directories are never taken without this command, because one that is empty may
only not be mounted.`,
		Example: "  holdfast drive rm --force node2/d3\n  holdfast drive add --endpoint http://node2:9000 /mnt/d3",
		Args:    betweenArgs(1, -1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runDriveAdd(cmd.Context(), s, &o, args) },
	}
	o.bind(cmd)
	return cmd
}

func runDriveAdd(ctx context.Context, s *session, o *lookOptions, dirs []string) error {
	client, err := s.adminClient(&o.client)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			return usageError(fmt.Errorf("%q is not an absolute path on the peer", dir))
		}
	}
	for _, dir := range dirs {
		done, err := client.AddDrive(ctx, dir)
		if err != nil {
			return err
		}
		if err := s.sayDone(o, done); err != nil {
			return err
		}
	}
	return nil
}
