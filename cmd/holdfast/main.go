// Command holdfast is the whole of holdfast in one binary: the server, the mount and the client commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(mainStatus())
}

// mainStatus keeps the deferred stop of the signals apart from os.Exit, which runs no deferred calls.
func mainStatus() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: after the first the default behaviour is back.
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args, streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.LookupEnv)
}
