package main

import (
	"fmt"

	"github.com/spf13/cobra"
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

func runCompletion(s *session, root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(s.out, true)
	case "zsh":
		return root.GenZshCompletion(s.out)
	case "fish":
		return root.GenFishCompletion(s.out, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(s.out)
	}
	return usageError(fmt.Errorf("no completion for %q: it is bash, zsh, fish or powershell", shell))
}
