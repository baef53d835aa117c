package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newVolume(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Look at volumes, the rows that say which drives hold which shards",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(newVolumeLs(s))
	return cmd
}

func newVolumeLs(s *session) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the volumes",
		Args:  exactArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runVolumeLs(cmd.Context(), s, &o) },
	}
	o.bind(cmd)
	return cmd
}

func runVolumeLs(ctx context.Context, s *session, o *lookOptions) error {
	client, err := s.adminClient(&o.client)
	if err != nil {
		return err
	}
	volumes, err := client.Volumes(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return s.printJSON(volumes)
	}
	t := newTable("VOLUME", "STATE", "EPOCH", "GROUP", "AWAY", "DRIVES BY SHARD")
	for _, v := range volumes {
		t.add(strconv.FormatUint(v.ID, 10), v.State, strconv.FormatUint(v.Epoch, 10), strconv.FormatUint(uint64(v.Group), 10),
			strconv.Itoa(v.Away), strings.Join(v.Slots, " "))
	}
	return t.print(s.out)
}
