package main

import (
	"context"
	"io"

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

// look asks the operator API, and shows the answer to a person, or as it is to a program.
func look[T any](ctx context.Context, s *session, o *lookOptions,
	ask func(*admin.Client, context.Context) (T, error), show func(io.Writer, T) error) (answer T, err error) {
	client, err := s.adminClient(&o.client)
	if err != nil {
		return answer, err
	}
	if answer, err = ask(client, ctx); err != nil {
		return answer, err
	}
	if o.json {
		return answer, s.printJSON(answer)
	}
	return answer, show(s.out, answer)
}

// newListing makes a command that lists what the operator API answers.
func newListing[T any](s *session, short, long string,
	ask func(*admin.Client, context.Context) (T, error), show func(io.Writer, T) error) *cobra.Command {
	o := lookOptions{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: short,
		Long:  long,
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := look(cmd.Context(), s, &o, ask, show)
			return err
		},
	}
	o.bind(cmd)
	return cmd
}

// ofStatus asks for a part of the status.
func ofStatus[T any](part func(*admin.Status) T) func(*admin.Client, context.Context) (T, error) {
	return func(client *admin.Client, ctx context.Context) (rows T, err error) {
		status, err := client.Status(ctx)
		if err != nil {
			return rows, err
		}
		return part(status), nil
	}
}
