package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/headgate/gateway/core/pluginhost"
)

func newPin(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pin ./binary",
		Short: "Print the configuration that runs this very file as a plugin, and no other",
		Long: "Print the lines of the configuration with which the gateway runs this very file as a\n" +
			"plugin: its name, which the plugin is asked for, its path and its SHA-256. The gateway\n" +
			"runs a copy with that sum, whatever happens to the file.",
		Example: "  gateway plugins pin ./egress-file >> gateway.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := exec.LookPath(args[0])
			if err != nil {
				return fmt.Errorf("finding the plugin: %w", err)
			}
			path, err := filepath.Abs(found)
			if err != nil {
				return fmt.Errorf("finding the plugin: %w", err)
			}
			sum, err := pluginhost.Checksum(path)
			if err != nil {
				return failed(err)
			}
			// With the pin: what is asked is what is pinned.
			info, err := pluginhost.Describe(cmd.Context(), pluginhost.Spec{Name: path, Command: []string{path}, SHA256: sum}, a.log)
			if err != nil {
				return failed(err)
			}
			_, err = fmt.Fprintf(a.out, "plugins:\n  %s:\n    path: %s\n    sha256: %s\n", yamlText(info.GetName()), yamlText(path), yamlText(sum))
			return failed(err)
		},
	}
}

// plainYAML is a text that YAML takes for one without quotes.
var plainYAML = regexp.MustCompile(`^[A-Za-z_./][A-Za-z0-9_./-]*$`)

// yamlText is a text as it stands in YAML.
func yamlText(s string) string {
	if plainYAML.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}
