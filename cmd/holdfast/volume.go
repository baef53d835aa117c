package main

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
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
	return newListing(s, "List the volumes", `Lists the volumes. GROUP is the placement group that a volume was made from, EPOCH grows with every change of its row,
AWAY is how many of its shards are not on their home drives.`, (*admin.Client).Volumes, printVolumes)
}

func printVolumes(w io.Writer, volumes []admin.Volume) error {
	t := newTable("VOLUME", "STATE", "EPOCH", "GROUP", "AWAY", "DRIVES BY SHARD")
	for _, v := range volumes {
		t.add(strconv.FormatUint(v.ID, 10), v.State, strconv.FormatUint(v.Epoch, 10), strconv.FormatUint(uint64(v.Group), 10),
			strconv.Itoa(v.Away), strings.Join(v.Slots, " "))
	}
	return t.print(w)
}
