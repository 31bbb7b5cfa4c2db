package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker (see the Makefile); `go install` leaves them to the build info.
var (
	version string
	commit  string
)

type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*versionCmd) Help() string {
	return `Examples:

    outbox-cdc version
    outbox-cdc version --json`
}

// versionInfo is what a bug report needs.
type versionInfo struct {
	Version   string            `json:"version"`
	Commit    string            `json:"commit"`
	Go        string            `json:"go"`
	Platform  string            `json:"platform"`
	Libraries map[string]string `json:"libraries"`
}

// libraries are those whose version decides how we talk to either side.
var libraries = []struct{ name, module string }{
	{"sarama", "github.com/IBM/sarama"},
	{"pgx", "github.com/jackc/pgx/v5"},
	{"pglogrepl", "github.com/jackc/pglogrepl"},
}

func readVersion() versionInfo {
	info := versionInfo{Version: version, Commit: commit, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Libraries: map[string]string{}}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	for _, s := range build.Settings {
		if s.Key == "vcs.revision" {
			info.Commit = cmp.Or(info.Commit, s.Value)
		}
	}
	for _, l := range libraries {
		info.Libraries[l.name] = "unknown"
		for _, m := range build.Deps {
			if m.Path == l.module {
				info.Libraries[l.name] = m.Version
			}
		}
	}
	info.Version = cmp.Or(info.Version, build.Main.Version, "(devel)")
	info.Commit = cmp.Or(info.Commit, "unknown")
	return info
}

// Run prints the version.
func (c *versionCmd) Run(a *app) error {
	info := readVersion()
	if c.JSON {
		return a.printJSON(info)
	}
	fmt.Fprintf(a.stdout, "outbox-cdc %s\ncommit %s\n%s %s\n", info.Version, info.Commit, info.Go, info.Platform)
	for _, l := range libraries {
		fmt.Fprintf(a.stdout, "%s %s\n", l.name, info.Libraries[l.name])
	}
	return nil
}

// printJSON writes v to standard output, indented.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
