package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// logOptions say what a server or mount logs, and how.
type logOptions struct {
	level  string
	format string
}

func (o *logOptions) bind(root *cobra.Command) {
	root.PersistentFlags().StringVar(&o.level, "log-level", "info", "what to log: debug, info, warn or error")
	root.PersistentFlags().StringVar(&o.format, "log-format", "auto", "text, json, or auto (text on a terminal)")
	setting(root.PersistentFlags(), "log-level", "log-format")
}

func (o *logOptions) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, usageError(fmt.Errorf("--log-level %q: it is debug, info, warn or error", o.level))
	}
	options := &slog.HandlerOptions{Level: level}
	switch {
	case o.format == "text", o.format == "auto" && isTerminal(w):
		return slog.New(slog.NewTextHandler(w, options)), nil
	case o.format == "json", o.format == "auto":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usageError(fmt.Errorf("--log-format %q: it is text, json or auto", o.format))
}

// isTerminal tells whether a person reads w.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
