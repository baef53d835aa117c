package main

import (
	"cmp"
	"fmt"
	"io"
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
	return newListing(s, "List the groups with their leaders and voters",
		`Lists the Raft groups: root keeps the cluster's own records, tablet the names of objects. WANTED is how many voters a
group should have (holdfast cluster set chooses); learners are on their way to be voters.`,
		ofStatus(func(status *admin.Status) []admin.Group { return status.Groups }), printGroups)
}

func printGroups(w io.Writer, groups []admin.Group) error {
	t := newTable("GROUP", "NAME", "LEADER", "TERM", "WANTED", "VOTERS", "LEARNERS")
	for _, g := range groups {
		t.add(strconv.FormatUint(g.ID, 10), g.Name, cmp.Or(g.Leader, "NOBODY"), strconv.FormatUint(g.Term, 10), wantedText(&g),
			cmp.Or(strings.Join(g.Voters, " "), "-"), cmp.Or(strings.Join(g.Learners, " "), "-"))
	}
	return t.print(w)
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
