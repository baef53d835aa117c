package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cluster/replicas"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newCluster(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Let other machines into the cluster, and choose what holds for all of it",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newClusterToken(s), newClusterSet(s))
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
	cmd.Flags().DurationVar(&o.life, "life", 0, "for how long it is good, at most 1h (default 10m)")
	return cmd
}

func runClusterToken(ctx context.Context, s *session, o *tokenOptions) error {
	if o.life != 0 && (o.life < time.Second || o.life > trust.MaxTokenLife) {
		return usageError(fmt.Errorf("--life %v is not between 1s and %v", o.life, trust.MaxTokenLife))
	}
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
	if _, err := fmt.Fprintf(s.err, "good for one peer until %s; it asks at %s\n%s", token.Expires.Local().Format(time.DateTime),
		strings.Join(token.Addresses, " "), nearWarning(token.Addresses)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, token.Token)
	return err
}

// nearWarning says that a token is of no use on another machine.
func nearWarning(addresses []string) string {
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return ""
		}
	}
	return "warning: other machines cannot reach that; to let them join, start this peer with --peer ADDRESS of its network\n"
}

type setOptions struct {
	look               lookOptions
	voters, rootVoters int
}

func newClusterSet(s *session) *cobra.Command {
	o := setOptions{}
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Choose how many peers keep names, and the cluster's own records",
		Long: `Sets how many voters a tablet and the root group have. Names go on while a majority of their voters is up: 3 voters
survive the loss of 1 peer, 5 of 2, 7 of 3, 9 of 4, and each voter more costs every change of a name. 0 means as many as
suit the peers: 1 at 1 or 2 peers, 3 at 3 or 4, and 5 from there on, or 7 or 9 where many peers have one drive each and
names would survive fewer drives than bytes. With fewer peers than voters the largest odd number is taken, until there
are more.`,
		Example: "  holdfast cluster set --voters 9 --root-voters 9\n  holdfast cluster set --voters 0",
		Args:    exactArgs(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runClusterSet(cmd, s, &o) },
	}
	o.look.bind(cmd)
	cmd.Flags().IntVar(&o.voters, "voters", 0, "voters of a tablet: `n` is odd and at most 9, or 0")
	cmd.Flags().IntVar(&o.rootVoters, "root-voters", 0, "voters of the root group: `n` is odd and at most 9, or 0")
	return cmd
}

func runClusterSet(cmd *cobra.Command, s *session, o *setOptions) error {
	var settings admin.Settings
	for _, flag := range []struct {
		name string
		n    *int
		into **int
	}{{"voters", &o.voters, &settings.Voters}, {"root-voters", &o.rootVoters, &settings.RootVoters}} {
		if !cmd.Flags().Changed(flag.name) {
			continue
		}
		if n := *flag.n; n < 0 || n > replicas.MaxVoters || n != 0 && n%2 == 0 {
			return usageError(fmt.Errorf("--%s %d: it is an odd number up to %d, or 0 for as many as suit the peers", flag.name, n, replicas.MaxVoters))
		}
		*flag.into = flag.n
	}
	if settings == (admin.Settings{}) {
		return usageError(errors.New("nothing to set: give --voters or --root-voters"))
	}
	client, err := s.adminClient(&o.look.client)
	if err != nil {
		return err
	}
	done, err := client.Set(cmd.Context(), settings)
	if err != nil {
		return err
	}
	return s.sayDone(&o.look, done)
}
