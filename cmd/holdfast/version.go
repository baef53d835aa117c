package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version); a plain `go build` leaves dev.
var version = "dev"

type versionOptions struct {
	json bool
}

func newVersion(s *session) *cobra.Command {
	o := versionOptions{}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactArgs(0),
		RunE:  func(*cobra.Command, []string) error { return runVersion(s, &o) },
	}
	bindJSON(cmd, &o.json)
	return cmd
}

func runVersion(s *session, o *versionOptions) error {
	if o.json {
		return s.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
	}
	_, err := fmt.Fprintf(s.out, "holdfast %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func bindJSON(cmd *cobra.Command, into *bool) {
	cmd.Flags().BoolVar(into, "json", false, "print JSON for programs")
}

// printJSON prints a value on indented lines.
func (s *session) printJSON(value any) error {
	encoder := json.NewEncoder(s.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
