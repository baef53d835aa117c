package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/holdfast/admin"
)

func newCompletion(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the script that makes a shell complete holdfast's commands",
		Example: "  source <(holdfast completion bash)\n" +
			"  holdfast completion zsh > \"${fpath[1]}/_holdfast\"\n  holdfast completion fish > ~/.config/fish/completions/holdfast.fish",
		Args:      exactArgs(1),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE:      func(cmd *cobra.Command, args []string) error { return runCompletion(s, cmd.Root(), args[0]) },
	}
}

// plainBash lets the script work where the bash-completion package, which it asks for the words of the line, is missing.
const plainBash = `
if ! declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
    __holdfast_init_completion()
    {
        COMPREPLY=()
        words=("${COMP_WORDS[@]}")
        cword=$COMP_CWORD
        cur=${words[cword]}
        prev=${words[cword-1]}
    }
fi
`

func runCompletion(s *session, root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		if err := root.GenBashCompletionV2(s.out, true); err != nil {
			return err
		}
		_, err := io.WriteString(s.out, plainBash)
		return err
	case "zsh":
		return root.GenZshCompletion(s.out)
	case "fish":
		return root.GenFishCompletion(s.out, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(s.out)
	}
	return usageError(fmt.Errorf("no completion for %q: it is bash, zsh, fish or powershell", shell))
}

// completionPatience is how long a shell waits for a cluster before it completes nothing.
const completionPatience = 2 * time.Second

// completeFrom completes the one argument of a command with names that the cluster knows.
func (s *session) completeFrom(o *clientOptions, names func(*admin.Status) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 || s.config.resolve(cmd) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := s.adminClient(o)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		status, err := client.Status(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(status), cobra.ShellCompDirectiveNoFileComp
	}
}
