package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
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
		Args:  exactArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runTabletLs(cmd.Context(), s, &o) },
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
	t := newTable("GROUP", "NAME", "LEADER", "TERM", "VOTERS", "LEARNERS")
	for _, g := range status.Groups {
		voters := fmt.Sprintf("%s (%d of %d)", strings.Join(g.Voters, " "), len(g.Voters), g.Target)
		t.add(strconv.FormatUint(g.ID, 10), g.Name, nonEmpty(g.Leader, "nobody"), strconv.FormatUint(g.Term, 10), voters,
			nonEmpty(strings.Join(g.Learners, " "), "-"))
	}
	return t.print(s.out)
}
