package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newTablet(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tablet",
		Short: "Look at the Raft groups that keep names and the cluster's own records",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newTabletLs(s))
	return cmd
}

func newTabletLs(s *session) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the groups with their leaders and voters",
		Long: `Lists the Raft groups: root keeps the cluster's own records, tablet the names of objects. WANTED is how many voters a
group should have (holdfast cluster set chooses); learners are on their way to be voters.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTabletLs(cmd.Context(), s, &o) },
	}
	o.bind(cmd)
	return cmd
}

func runTabletLs(ctx context.Context, s *session, o *lookOptions) error {
	client, err := s.adminClient(&o.client)
	if err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return s.printJSON(status.Groups)
	}
	t := newTable("GROUP", "NAME", "LEADER", "TERM", "WANTED", "VOTERS", "LEARNERS")
	for _, g := range status.Groups {
		t.add(strconv.FormatUint(g.ID, 10), g.Name, nonEmpty(g.Leader, "NOBODY"), strconv.FormatUint(g.Term, 10), wantedText(&g),
			nonEmpty(strings.Join(g.Voters, " "), "-"), nonEmpty(strings.Join(g.Learners, " "), "-"))
	}
	return t.print(s.out)
}

// wantedText is how many voters a group should have, and how many an operator chose where that is more than there can be.
func wantedText(g *admin.Group) string {
	switch {
	case g.Set == 0:
		return fmt.Sprintf("%d", g.Target)
	case g.Set == g.Target:
		return fmt.Sprintf("%d (set)", g.Target)
	}
	return fmt.Sprintf("%d (set: %d)", g.Target, g.Set)
}
