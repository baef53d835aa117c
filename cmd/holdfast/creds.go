package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

type credsOptions struct {
	client clientOptions
	json   bool
}

func newCreds(s *session) *cobra.Command {
	o := credsOptions{}
	cmd := &cobra.Command{
		Use:   "creds",
		Short: "Print the access key as lines for a shell",
		Long: `Prints the access key that the other commands would use, as lines that set up aws and other S3 clients. The
data directory's credentials file can also be named in AWS_SHARED_CREDENTIALS_FILE.`,
		Example: "  eval \"$(holdfast creds)\"\n  aws s3 ls",
		Args:    exactArgs(0),
		RunE:    func(*cobra.Command, []string) error { return runCreds(s, &o) },
	}
	o.client.bind(cmd)
	bindJSON(cmd, &o.json)
	return cmd
}

func runCreds(s *session, o *credsOptions) error {
	key, err := s.config.clientKey(o.client.dir)
	if err != nil {
		return err
	}
	pairs := [][2]string{
		{"AWS_ACCESS_KEY_ID", key.AccessKey},
		{"AWS_SECRET_ACCESS_KEY", string(key.Secret)},
		{"AWS_ENDPOINT_URL", o.client.endpoint},
		{"AWS_DEFAULT_REGION", region},
	}
	if o.json {
		values := make(map[string]string, len(pairs))
		for _, p := range pairs {
			values[p[0]] = p[1]
		}
		return s.printJSON(values)
	}
	var b strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&b, "export %s=%s\n", p[0], shellQuote(p[1]))
	}
	_, err = fmt.Fprint(s.out, b.String())
	return err
}

// shellQuote makes text one word of a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
