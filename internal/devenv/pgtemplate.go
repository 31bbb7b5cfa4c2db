package devenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// initdbArgs: no sync, for the data is worth nothing; a locale that every machine has.
var initdbArgs = []string{
	"--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "--auth=reject",
}

// makeDataDir fills the sandbox's data directory. initdb takes a second or more, so its
// result is kept in the cache per version and copied: such clusters share one system
// identifier. fresh runs initdb instead.
func makeDataDir(ctx context.Context, s *sandbox, bin pgBinaries, fresh bool) (string, error) {
	data := s.path("data")
	if fresh {
		return data, initdb(ctx, s, bin, data)
	}
	id := digest(bin.dir, bin.version, initdbArgs, os.Geteuid())
	template, err := cached(ctx, "pgdata-"+bin.version+"-"+id, func(dir string) error {
		made := s.path("template")
		if err := initdb(ctx, s, bin, made); err != nil {
			return err
		}
		return os.CopyFS(filepath.Join(dir, "data"), os.DirFS(made))
	})
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(data, os.DirFS(filepath.Join(template, "data"))); err != nil {
		return "", fmt.Errorf("copy the data directory: %w", err)
	}
	if err := os.Chmod(data, 0o700); err != nil { // or the server refuses it
		return "", err
	}
	return data, s.chown(data)
}

func initdb(ctx context.Context, s *sandbox, bin pgBinaries, data string) error {
	return s.run(ctx, bin.path("initdb"), append([]string{"--pgdata=" + data}, initdbArgs...)...)
}
