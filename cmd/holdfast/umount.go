package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

type umountOptions struct {
	lazy bool
}

func newUmount(s *session) *cobra.Command {
	o := umountOptions{}
	cmd := &cobra.Command{
		Use:     "umount DIR",
		Aliases: []string{"unmount"},
		Short:   "Take a mount away",
		Long:    "Takes a mount away. Files that are still open keep it busy; --lazy hides it now and ends it when they are closed.",
		Args:    exactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runUmount(cmd.Context(), s, &o, args[0]) },
	}
	cmd.Flags().BoolVar(&o.lazy, "lazy", false, "hide a busy mount now")
	return cmd
}

func runUmount(ctx context.Context, _ *session, o *umountOptions, dir string) error {
	at, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	mounted, err := isHoldfastMount(at)
	if err != nil {
		return err
	}
	if !mounted {
		return fmt.Errorf("no holdfast file system is mounted at %s", at)
	}
	return unmount(ctx, at, o.lazy)
}

// isHoldfastMount reads the kernel's table, because a stat of a dead mount fails or hangs.
func isHoldfastMount(at string) (bool, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(text)) {
		// mount id, parent, device, root, mount point, options, optional fields, "-", type, source, options
		before, after, found := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if found && len(fields) >= 5 && unescape.Replace(fields[4]) == at && strings.HasPrefix(after, "fuse.holdfast ") {
			return true, nil
		}
	}
	return false, nil
}

// unmount takes a mount away: directly as root, else through fusermount3, which may do so for its owner.
func unmount(ctx context.Context, at string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		err := unix.Unmount(at, flags)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s is in use: close its files and leave the directory, or use --lazy", at)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		return nil
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	out, err := exec.CommandContext(ctx, "fusermount3", append(args, at)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", at, err, strings.TrimSpace(string(out)))
	}
	return nil
}
