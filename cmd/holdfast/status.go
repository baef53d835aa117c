package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newStatus(s *session) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is stored, how safe it is, and what is being done",
		Long: `Shows peers, drives, content, and how many more losses everything survives, counted for bytes (shards), names
(the log) and the root (the cluster's own records), by drive, device, peer and zone. Exit code 3 when something is wrong.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), s, &o) },
	}
	o.bind(cmd)
	return cmd
}

func runStatus(ctx context.Context, s *session, o *lookOptions) error {
	status, err := look(ctx, s, o, (*admin.Client).Status, func(w io.Writer, status *admin.Status) error {
		_, err := fmt.Fprint(w, statusText(status))
		return err
	})
	if err == nil && !status.Whole() {
		err = errUnsound
	}
	return err
}

func statusText(st *admin.Status) string {
	var b strings.Builder
	state := "ready"
	switch {
	case !st.Ready:
		state = "NOT READY: " + strings.Join(st.Reasons, "; ")
	case !st.Whole():
		state = "ready, not whole"
	}
	fmt.Fprintf(&b, "%s  %s\n", st.Name, state)
	fmt.Fprintf(&b, "  version   holdfast %s, up %s, at %s\n", st.Version, st.Uptime.Round(time.Second), st.Endpoint)
	fmt.Fprintf(&b, "  cluster   %s\n", st.Cluster)
	if len(st.Peers) > 1 {
		writePeers(&b, st)
	}
	fmt.Fprintf(&b, "  drives    %d of %d up\n", st.DrivesUp, len(st.Drives))
	writeDrives(&b, st)
	if st.Names {
		c := &st.Content
		fmt.Fprintf(&b, "  content   %s, %s, %s\n", plural(c.Buckets, "bucket"), plural(c.Objects, "object"), size(c.Bytes))
		if c.Versions+c.Uploads > 0 {
			fmt.Fprintf(&b, "            %s (%s), %s under way (%s)\n", plural(c.Versions, "noncurrent version"), size(c.VersionBytes),
				plural(c.Uploads, "upload"), size(c.PartBytes))
		}
		fmt.Fprintf(&b, "  on drives %s%s\n", size(c.Stored), factorText(st))
		writeLosses(&b, st)
		fmt.Fprintf(&b, "  repair    %s\n", shortageText(st.Protection))
		if m := &st.Moving; m.Volumes > 0 {
			fmt.Fprintf(&b, "  moving    %s, %s\n", plural(m.Volumes, "volume"), size(m.Bytes))
		}
		if n := st.Moving.Homeless; n > 0 {
			fmt.Fprintf(&b, "            %s must leave a drive and CANNOT: there are too few other drives with room\n", plural(n, "volume"))
		}
		w := &st.Waiting
		fmt.Fprintf(&b, "  waiting   %s to be deleted, %s for sweep, %s not published\n", plural(w.Freed, "freed row"),
			plural(w.Sweep, "shared row"), plural(w.Staged, "staged file"))
		if w.Remains > 0 {
			fmt.Fprintf(&b, "            %s of failed writes left shards behind, for sweep\n", plural(w.Remains, "chunk"))
		}
	}
	for _, w := range st.Work {
		if w.Error != "" {
			fmt.Fprintf(&b, "  worker    %s is %s: %s\n", w.Name, w.State, w.Error)
		}
	}
	fmt.Fprintf(&b, "  memory    %s of %s in buffers, %s resident\n", size(st.Memory.InUse), size(st.Memory.Budget), size(st.Memory.Resident))
	return b.String()
}

// factorText is left out while drives are away: what they hold is not counted.
func factorText(st *admin.Status) string {
	if st.DrivesUp < len(st.Drives) {
		return " on those that are up"
	}
	if st.Content.Factor == 0 {
		return ""
	}
	return " (" + humanize.FtoaWithDigits(st.Content.Factor, 2) + " for each byte stored)"
}

// writePeers writes a line about the peers and their zones, and one for each that is not as it should be.
func writePeers(b *strings.Builder, st *admin.Status) {
	up := make(map[string]bool)
	zones := make(map[string]bool)
	for _, p := range st.Peers {
		zones[p.Zone] = true
		if p.Up {
			up[p.Name] = true
		}
	}
	where := ""
	if len(zones) > 1 {
		where = " in " + plural(int64(len(zones)), "zone")
	}
	fmt.Fprintf(b, "  peers     %d of %d up%s\n", len(up), len(st.Peers), where)
	for _, p := range st.Peers {
		switch {
		case !p.Up:
			fmt.Fprintf(b, "            %s is down (%s): %s\n", p.Name, p.Peer, p.Reason)
		case p.State != "active":
			fmt.Fprintf(b, "            %s is %s: %s\n", p.Name, p.State, leftText(st.Drives, func(d *admin.Drive) bool { return d.Peer == p.Name }))
		}
	}
	for _, g := range st.Groups {
		here := 0
		for _, name := range g.Voters {
			if up[name] {
				here++
			}
		}
		text := fmt.Sprintf("%d of %s up", here, plural(int64(len(g.Voters)), "voter"))
		if len(g.Voters) != g.Target {
			text += fmt.Sprintf(", should be %d", g.Target)
		}
		fmt.Fprintf(b, "  %-9s led by %s, %s\n", g.Name, cmp.Or(g.Leader, "NOBODY"), text)
	}
}

// leftText is how much the drives that are to be emptied still hold.
func leftText(drives []admin.Drive, which func(*admin.Drive) bool) string {
	var shards, bytes int64
	for i := range drives {
		if which(&drives[i]) {
			shards += drives[i].Shards
			bytes += drives[i].Bytes
		}
	}
	if shards == 0 {
		return "it is empty"
	}
	return plural(shards, "shard") + " left, " + size(bytes)
}

// writeDrives names the drives that are not as they should be. Those of a peer that is down are named by its own line.
func writeDrives(b *strings.Builder, st *admin.Status) {
	down := make(map[string]bool)
	for _, p := range st.Peers {
		down[p.Name] = !p.Up
	}
	for i := range st.Drives {
		d := &st.Drives[i]
		name := driveName(st.Peers, d)
		switch {
		case down[d.Peer]:
		case d.State != "up" || d.Reason != "":
			fmt.Fprintf(b, "            %s at %s: %s\n", name, d.Path, cmp.Or(d.Reason, d.State))
		case d.Use == "draining":
			fmt.Fprintf(b, "            %s is draining: %s\n", name, leftText(st.Drives[i:i+1], func(*admin.Drive) bool { return true }))
		}
	}
}

// writeLosses writes how many more losses bytes, names and root survive, in columns: any one of them, not all at once.
func writeLosses(b *strings.Builder, st *admin.Status) {
	many := len(st.Peers) > 1
	fmt.Fprintf(b, "  survives  %-15s  drives  devices", "the loss of any")
	if many {
		fmt.Fprint(b, "  peers  zones")
	}
	fmt.Fprintln(b)
	for _, row := range []struct {
		name string
		t    admin.Tolerance
	}{{"bytes", st.Losses.Bytes}, {"names", st.Losses.Names}, {"root", st.Losses.Root}} {
		switch {
		case row.t.Drives >= 0:
		case row.name == "bytes" && st.Content.Bytes+st.Content.VersionBytes+st.Content.PartBytes == 0:
			fmt.Fprintf(b, "            %-15s  nothing can be stored yet\n", row.name)
			continue
		default:
			fmt.Fprintf(b, "            %-15s  SOME CANNOT BE READ NOW\n", row.name)
			continue
		}
		fmt.Fprintf(b, "            %-15s  %6d  %7d", row.name, row.t.Drives, row.t.Devices)
		if many {
			fmt.Fprintf(b, "  %5d  %5d", row.t.Peers, row.t.Zones)
		}
		fmt.Fprintln(b)
	}
}

func shortageText(s admin.Shortage) string {
	if s.Chunks == 0 && s.Volumes == 0 {
		return "nothing is under-protected"
	}
	return fmt.Sprintf("%s under-protected, %s away from home", plural(s.Chunks, "chunk"), plural(s.Volumes, "volume"))
}
