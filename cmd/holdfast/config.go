package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/holdfast/holdfast/cluster/vfs"
	"github.com/holdfast/holdfast/cmd/holdfast/peer"
)

// settingKey marks the flags that the environment and the file may set. Flags that say what one call does
// (--recursive, --deep) are not settings: they must stand on the command line.
const settingKey = "holdfast.setting"

// configuration resolves settings: flag > HOLDFAST_* > YAML file > default. It is the only reader of the environment.
type configuration struct {
	lookup func(string) (string, bool)
	file   string
}

func (c *configuration) bind(root *cobra.Command) {
	root.PersistentFlags().StringVar(&c.file, "config", "", "YAML `file` of settings")
}

// setting marks flags of a command as settings.
func setting(flags *pflag.FlagSet, names ...string) {
	for _, name := range names {
		// The only error is a flag that does not exist, a mistake in this program.
		if err := flags.SetAnnotation(name, settingKey, []string{"true"}); err != nil {
			panic(err)
		}
	}
}

func isSetting(f *pflag.Flag) bool { return f.Annotations[settingKey] != nil }

// resolve fills every setting of cmd that was not given as a flag.
func (c *configuration) resolve(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("config") {
		if path, ok := c.lookup("HOLDFAST_CONFIG"); ok {
			c.file = path
		}
	}
	fromFile, err := c.readFile(cmd)
	if err != nil {
		return usageError(err)
	}
	var wrong error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if wrong != nil || f.Changed || !isSetting(f) {
			return
		}
		value, source := "", ""
		if text, ok := c.lookup(variable(f.Name)); ok {
			value, source = text, variable(f.Name)
		} else if text, ok := fromFile[f.Name]; ok {
			value, source = text, c.file+": "+f.Name
		} else {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			wrong = usageError(fmt.Errorf("%s: %q: %w", source, value, err))
		}
	})
	return wrong
}

// variable is the environment variable of a setting.
func variable(flag string) string {
	return "HOLDFAST_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readFile returns the settings of the file for cmd. Its keys are names of settings; a mapping under the name of a
// command holds settings of that command alone and wins. A key that no command knows is an error, so a misspelt one is
// not passed over.
func (c *configuration) readFile(cmd *cobra.Command) (map[string]string, error) {
	if c.file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", c.file, err)
	}
	known := settingsOf(cmd.Root())
	result := make(map[string]string)
	own := make(map[string]string)
	for key, value := range tree {
		section, ok := value.(map[string]any)
		if !ok {
			if err := put(result, known, key, value); err != nil {
				return nil, fmt.Errorf("configuration %s: %w", c.file, err)
			}
			continue
		}
		command := childNamed(cmd.Root(), key)
		if command == nil {
			return nil, fmt.Errorf("configuration %s: no command is named %q", c.file, key)
		}
		target := map[string]string{}
		if cmd == command || cmd.Parent() == command {
			target = own
		}
		for name, value := range section {
			if err := put(target, settingsOf(command), name, value); err != nil {
				return nil, fmt.Errorf("configuration %s: %s: %w", c.file, key, err)
			}
		}
	}
	for name, value := range own {
		result[name] = value
	}
	return result, nil
}

func put(into map[string]string, known []string, key string, value any) error {
	if !slices.Contains(known, key) {
		return fmt.Errorf("%q is no setting (settings: %s)", key, strings.Join(known, ", "))
	}
	switch v := value.(type) {
	case string, bool, int, float64:
		into[key] = fmt.Sprint(v)
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, fmt.Sprint(item))
		}
		into[key] = strings.Join(items, ",")
	default:
		return fmt.Errorf("%q has a value of a kind that no setting takes", key)
	}
	return nil
}

func childNamed(root *cobra.Command, name string) *cobra.Command {
	for _, child := range root.Commands() {
		if child.Name() == name {
			return child
		}
	}
	return nil
}

// settingsOf lists the settings of a command and all below it, sorted.
func settingsOf(cmd *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) {
		if isSetting(f) && !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	for _, child := range cmd.Commands() {
		for _, name := range settingsOf(child) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// rootKey is the root access key that the environment demands of a server, nil when it demands none.
func (c *configuration) rootKey() (*peer.Credentials, error) {
	key, err := c.pair("HOLDFAST_ROOT_ACCESS_KEY", "HOLDFAST_ROOT_SECRET_KEY")
	if err != nil || key == nil {
		return nil, err
	}
	if err := key.Validate(); err != nil {
		return nil, usageError(fmt.Errorf("HOLDFAST_ROOT_ACCESS_KEY: %w", err))
	}
	return key, nil
}

// clientKey finds the access key of a client command: HOLDFAST_ACCESS_KEY, else AWS_ACCESS_KEY_ID, else the
// credentials file in dir.
func (c *configuration) clientKey(dir string) (*peer.Credentials, error) {
	for _, names := range [][2]string{
		{"HOLDFAST_ACCESS_KEY", "HOLDFAST_SECRET_KEY"},
		{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
	} {
		if key, err := c.pair(names[0], names[1]); err != nil || key != nil {
			return key, err
		}
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	key, err := peer.ReadCredentials(vfs.OS(), absolute)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, usageError(fmt.Errorf("no access key: set HOLDFAST_ACCESS_KEY and HOLDFAST_SECRET_KEY (or AWS_ACCESS_KEY_ID and "+
			"AWS_SECRET_ACCESS_KEY), or name the server's data directory with --dir: %w", err))
	}
	return key, err
}

func (c *configuration) pair(access, secret string) (*peer.Credentials, error) {
	a, haveAccess := c.lookup(access)
	b, haveSecret := c.lookup(secret)
	switch {
	case a == "" && b == "":
		return nil, nil
	case !haveAccess || !haveSecret || a == "" || b == "":
		return nil, usageError(fmt.Errorf("%s and %s must be set together", access, secret))
	}
	return &peer.Credentials{AccessKey: a, Secret: peer.Secret(b)}, nil
}
