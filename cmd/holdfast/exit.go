package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

// Exit codes, documented in docs/cli.md.
const (
	exitDone        = 0
	exitError       = 1   // the command did not do what it was asked
	exitUsage       = 2   // the command line or the configuration is wrong; nothing was done
	exitUnsound     = 3   // status and fsck: something is wrong with what is stored or with a drive; bench: a bar was missed
	exitUnreachable = 4   // no gateway answers at the endpoint
	exitRefused     = 5   // the gateway refused the access key
	exitNotFound    = 6   // the bucket, object, peer or drive does not exist
	exitInterrupted = 130 // ended by SIGINT or SIGTERM before it was done
)

// exitCode is an error with the exit code that it gives.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string { return e.err.Error() }
func (e *exitCode) Unwrap() error { return e.err }

func usageError(err error) error { return &exitCode{code: exitUsage, err: err} }

// errUnsound ends a command that has already said what is wrong.
var errUnsound = errors.New("something is wrong")

// report prints err for a person and returns its exit code.
func report(w io.Writer, ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errUnsound) {
		return exitUnsound
	}
	code := exitError
	var coded *exitCode
	switch {
	case errors.As(err, &coded):
		code = coded.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		code, err = exitInterrupted, errors.New("interrupted")
	case errors.Is(err, admin.ErrUnreachable):
		code = exitUnreachable
	case errors.Is(err, admin.ErrRefused):
		code = exitRefused
	case errors.Is(err, admin.ErrNotFound):
		code = exitNotFound
	}
	if _, werr := fmt.Fprintf(w, "holdfast: %v\n", err); werr != nil {
		return exitError
	}
	return code
}
