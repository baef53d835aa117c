package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newPeer(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Look at the peers of the cluster, drain and remove them",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newPeerLs(s),
		newPeerAction(s, admin.Drain, "Move everything from a peer to the others", `Moves the shards and replicas of a peer to the others while everything goes on. `+"`holdfast status`"+` shows how much is
left; when the peer is empty, remove it with `+"`holdfast peer rm`"+`.`),
		newPeerAction(s, admin.Undrain, "Let a drained peer take part again", "Ends a drain: the peer takes new shards and replicas again."),
		newPeerAction(s, admin.Remove, "Remove a peer for ever", `Removes a peer that was drained, and revokes its certificate. With --force also one that still holds data, when it is
lost for good: what it held is made again from the other shards. A removed peer can come back only as a new one.`))
	return cmd
}

func newPeerLs(s *session) *cobra.Command {
	return newListing(s, "List the peers", "Lists the peers with their zone, addresses, drives and what they lead, as the peer sees them that is asked.",
		ofStatus(func(status *admin.Status) []admin.Peer { return status.Peers }), printPeers)
}

// printPeers writes the table, and below it why a peer is down.
func printPeers(w io.Writer, peers []admin.Peer) error {
	t := newTable("PEER", "STATE", "ZONE", "RACK", "DRIVES", "LEADS", "UPTIME", "VERSION", "S3", "PEER ADDRESS")
	for _, p := range peers {
		up := "-"
		if p.Up {
			up = p.Uptime.Round(time.Second).String()
		}
		t.add(p.Name, peerState(&p), cmp.Or(p.Zone, "-"), cmp.Or(p.Rack, "-"), fmt.Sprintf("%d/%d", p.DrivesUp, p.Drives),
			cmp.Or(strings.Join(p.Leads, " "), "-"), up, cmp.Or(p.Version, "-"), p.S3, p.Peer)
	}
	if err := t.print(w); err != nil {
		return err
	}
	for _, p := range peers {
		if p.Up {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", p.Name, p.Reason); err != nil {
			return err
		}
	}
	return nil
}

// peerState is a word for how a peer is.
func peerState(p *admin.Peer) string {
	switch {
	case !p.Up:
		return "down"
	case p.State != "active":
		return p.State
	}
	return "up"
}

// actionOptions are those of commands that do something to a peer or a drive.
type actionOptions struct {
	look  lookOptions
	force bool
}

func (o *actionOptions) bind(cmd *cobra.Command, action string) {
	o.look.bind(cmd)
	if action == admin.Remove {
		cmd.Flags().BoolVar(&o.force, "force", false, "also when it still holds data")
	}
}

func newPeerAction(s *session, action, short, long string) *cobra.Command {
	o := actionOptions{}
	cmd := &cobra.Command{
		Use:   action + " PEER",
		Short: short,
		Long:  long,
		Args:  exactArgs(1),
		ValidArgsFunction: s.completeFrom(&o.look.client, func(st *admin.Status) []string {
			var names []string
			for _, p := range st.Peers {
				names = append(names, p.Name)
			}
			return names
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAction(cmd.Context(), s, &o, args[0], action, (*admin.Client).ActOnPeer)
		},
	}
	o.bind(cmd, action)
	return cmd
}

func runAction(ctx context.Context, s *session, o *actionOptions, name, action string,
	do func(c *admin.Client, ctx context.Context, name, action string, force bool) (*admin.Done, error)) error {
	client, err := s.adminClient(&o.look.client)
	if err != nil {
		return err
	}
	done, err := do(client, ctx, name, action, o.force)
	if err != nil {
		return err
	}
	return s.sayDone(&o.look, done)
}

// sayDone tells what an action came to.
func (s *session) sayDone(o *lookOptions, done *admin.Done) error {
	if o.json {
		return s.printJSON(done)
	}
	_, err := fmt.Fprintln(s.out, done.Said)
	return err
}
