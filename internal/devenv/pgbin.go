package devenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// oldestPostgres is the oldest major version that the relay supports.
const oldestPostgres = 14

// pgBinaries is one installed PostgreSQL.
type pgBinaries struct {
	dir     string // of postgres and initdb
	version string // "15.14", "18.4"
}

func (b pgBinaries) path(name string) string { return filepath.Join(b.dir, name) }

func (b pgBinaries) major() int {
	digits, _, _ := strings.Cut(b.version, ".")
	n, _ := strconv.Atoi(digits)
	return n
}

// findPostgres returns the binaries for a version, downloading them when needed: "" is the
// newest one at hand, "17" any 17, "17.11.0" that release from Maven Central.
func findPostgres(ctx context.Context, version string, as *account) (pgBinaries, error) {
	major := 0
	if version != "" && !strings.Contains(version, ".") {
		n, err := strconv.Atoi(version)
		if err != nil || n < oldestPostgres {
			return pgBinaries{}, fmt.Errorf("PostgreSQL version %q: want %d or later, or a release such as 17.11.0",
				version, oldestPostgres)
		}
		major = n
	}
	if !strings.Contains(version, ".") {
		if found, ok := installedPostgres(ctx, major, as); ok {
			return found, nil
		}
	}
	if version == "" {
		version = newestPostgres
	}
	dir, err := fetchPostgres(ctx, version)
	if err != nil {
		return pgBinaries{}, err
	}
	return inspectPostgres(ctx, dir)
}

// installedPostgres returns the newest PostgreSQL of the machine; major 0 takes any.
func installedPostgres(ctx context.Context, major int, as *account) (pgBinaries, bool) {
	var dirs []string
	if onPath, err := exec.LookPath("postgres"); err == nil {
		if path, err := filepath.EvalSymlinks(onPath); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
		"/usr/pgsql-*/bin",                  // RPMs of the PostgreSQL project
		"/usr/lib/postgresql*/bin",          // Alpine, SUSE
		"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // fails on a malformed pattern only
		dirs = append(dirs, found...)
	}
	var best pgBinaries
	for _, dir := range dirs {
		if as != nil && traversable(dir) != nil {
			continue
		}
		b, err := inspectPostgres(ctx, dir)
		if err != nil || b.major() < oldestPostgres || major != 0 && b.major() != major {
			continue
		}
		if b.major() > best.major() {
			best = b
		}
	}
	return best, best.dir != ""
}

// inspectPostgres asks the binaries in dir for their version. It fails when initdb is not
// there, for some distributions split it off.
func inspectPostgres(ctx context.Context, dir string) (pgBinaries, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return pgBinaries{}, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return pgBinaries{}, fmt.Errorf("%s/postgres --version: %w", dir, err)
	}
	// postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return pgBinaries{}, fmt.Errorf("%s/postgres --version says %q", dir, out)
	}
	return pgBinaries{dir: dir, version: fields[2]}, nil
}
