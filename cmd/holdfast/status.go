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
		Long: `Shows drives, content, and how many more losses everything survives, counted for bytes (shards), names (the
log) and the root (the cluster's own records), by drive and by device. Exit code 3 when something is wrong.`,
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
	fmt.Fprintf(&b, "  drives    %d of %d up\n", st.DrivesUp, len(st.Drives))
	for _, d := range st.Drives {
		if d.State != "up" || d.Reason != "" {
			fmt.Fprintf(&b, "            %s at %s: %s\n", d.Name, d.Path, nonEmpty(d.Reason, d.State))
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
		fmt.Fprintf(&b, "  survives  %-8s %s\n", "bytes", lossText(st.Losses.Bytes))
		fmt.Fprintf(&b, "            %-8s %s\n", "names", lossText(st.Losses.Names))
		fmt.Fprintf(&b, "            %-8s %s\n", "root", lossText(st.Losses.Root))
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

func lossText(t admin.Tolerance) string {
	if t.Drives < 0 {
		return "SOME CANNOT BE READ NOW"
	}
	devices := "no device"
	if t.Devices > 0 {
		devices = "any " + plural(int64(t.Devices), "device")
	}
	return "the loss of any " + plural(int64(t.Drives), "more drive") + ", of " + devices
}

func shortageText(s admin.Shortage) string {
	if s.Chunks == 0 && s.Volumes == 0 {
		return "nothing is under-protected"
	}
	return fmt.Sprintf("%s under-protected, %s away from home", plural(s.Chunks, "chunk"), plural(s.Volumes, "volume"))
}
