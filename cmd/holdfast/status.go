package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// lookOptions are those of the commands that ask the operator API.
type lookOptions struct {
	client clientOptions
	json   bool
}

func (o *lookOptions) bind(cmd *cobra.Command) {
	o.client.bind(cmd)
	bindJSON(cmd, &o.json)
}

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
	client, err := s.adminClient(&o.client)
	if err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if o.json {
		err = s.printJSON(status)
	} else {
		_, err = fmt.Fprint(s.out, statusText(status))
	}
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
	for _, d := range st.Drives {
		if d.State != "up" || d.Reason != "" {
			name := d.Name
			if len(st.Peers) > 1 {
				name = d.Peer + "/" + d.Name
			}
			fmt.Fprintf(&b, "            %s at %s: %s\n", name, d.Path, nonEmpty(d.Reason, d.State))
		}
	}
	if st.Names {
		c := &st.Content
		fmt.Fprintf(&b, "  content   %s, %s, %s\n", plural(c.Buckets, "bucket"), plural(c.Objects, "object"), size(c.Bytes))
		if c.Versions+c.Uploads > 0 {
			fmt.Fprintf(&b, "            %s (%s), %s under way (%s)\n", plural(c.Versions, "noncurrent version"), size(c.VersionBytes),
				plural(c.Uploads, "upload"), size(c.PartBytes))
		}
		fmt.Fprintf(&b, "  on drives %s%s\n", size(c.Stored), factorText(c.Factor))
		fmt.Fprintf(&b, "  survives  %-8s %s\n", "bytes", lossText(st, st.Losses.Bytes))
		fmt.Fprintf(&b, "            %-8s %s\n", "names", lossText(st, st.Losses.Names))
		fmt.Fprintf(&b, "            %-8s %s\n", "root", lossText(st, st.Losses.Root))
		fmt.Fprintf(&b, "  repair    %s\n", shortageText(st.Protection))
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

func nonEmpty(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func factorText(factor float64) string {
	if factor == 0 {
		return ""
	}
	return " (" + humanize.FtoaWithDigits(factor, 2) + " for each byte stored)"
}

// writePeers writes a line about the peers and their zones, and one for each that is not as it should be.
func writePeers(b *strings.Builder, st *admin.Status) {
	up := 0
	zones := make(map[string]bool)
	for _, p := range st.Peers {
		zones[p.Zone] = true
		if p.Up {
			up++
		}
	}
	where := ""
	if len(zones) > 1 {
		where = " in " + plural(int64(len(zones)), "zone")
	}
	fmt.Fprintf(b, "  peers     %d of %d up%s\n", up, len(st.Peers), where)
	for _, p := range st.Peers {
		switch {
		case !p.Up:
			fmt.Fprintf(b, "            %s at %s: %s\n", p.Name, p.Peer, p.Reason)
		case p.State != "active":
			fmt.Fprintf(b, "            %s is %s\n", p.Name, p.State)
		}
	}
	for _, g := range st.Groups {
		fmt.Fprintf(b, "  %-9s led by %s, %d of %d voters\n", g.Name, nonEmpty(g.Leader, "NOBODY"), len(g.Voters), g.Target)
	}
}

func lossText(st *admin.Status, t admin.Tolerance) string {
	if t.Drives < 0 {
		return "SOME CANNOT BE READ NOW"
	}
	text := "the loss of any " + plural(int64(t.Drives), "more drive") + ", of " + anyOf(t.Devices, "device")
	if len(st.Peers) > 1 {
		text += ", of " + anyOf(t.Peers, "peer") + ", of " + anyOf(t.Zones, "zone")
	}
	return text
}

func anyOf(n int, what string) string {
	if n <= 0 {
		return "no " + what
	}
	return "any " + plural(int64(n), what)
}

func shortageText(s admin.Shortage) string {
	if s.Chunks == 0 && s.Volumes == 0 {
		return "nothing is under-protected"
	}
	return fmt.Sprintf("%s under-protected, %s away from home", plural(s.Chunks, "chunk"), plural(s.Volumes, "volume"))
}
