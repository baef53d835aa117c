package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func newCluster(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Let other machines into the cluster",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newClusterToken(s))
	return cmd
}

type tokenOptions struct {
	look lookOptions
	life time.Duration
}

func newClusterToken(s *session) *cobra.Command {
	o := tokenOptions{}
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token for one machine to join with",
		Long: `Makes a join token and prints it as the last line of stdout. It lets one peer in, once, until it expires:

  holdfast server --join TOKEN --drives ... --peer ADDRESS

The token names peers of the cluster and proves them to the new one; whoever has it can join, so treat it as a password.`,
		Example: "  holdfast cluster token\n  holdfast cluster token --life 1h | ssh host2 'cat > token'",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runClusterToken(cmd.Context(), s, &o) },
	}
	o.look.bind(cmd)
	cmd.Flags().DurationVar(&o.life, "life", 0, "how `long` it is good for, at most 1h (default 10m)")
	return cmd
}

func runClusterToken(ctx context.Context, s *session, o *tokenOptions) error {
	client, err := s.adminClient(&o.look.client)
	if err != nil {
		return err
	}
	token, err := client.Token(ctx, o.life)
	if err != nil {
		return err
	}
	if o.look.json {
		return s.printJSON(token)
	}
	if _, err := fmt.Fprintf(s.err, "good for one peer until %s\n", token.Expires.Local().Format(time.DateTime)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, token.Token)
	return err
}
