package devenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// fetchEnv in the environment makes this program fetch an archive, and nothing else. The
// library takes no context, leaves a log file in the temporary directory and keeps its
// connections; in a process of its own all that ends with the process and its sandbox.
const fetchEnv = "OUTBOX_CDC_FETCH_POSTGRES"

// repository is where archives come from; "" is the library's own choice.
var repository string

// downloadPause is how long a download that failed waits before the next try.
var downloadPause = 2 * time.Second

func init() { //nolint:gochecknoinits // every program that can ask for an archive can fetch one
	release := os.Getenv(fetchEnv)
	if release == "" || len(os.Args) != 3 {
		return
	}
	if err := embeddedArchive(release, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fetchArchive returns the archive (.txz) of a PostgreSQL release for this machine. It tries
// a few times, for the library does not say whether there is no such release.
func fetchArchive(ctx context.Context, release string) (archive []byte, err error) {
	box, err := newToolbox("fetch")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, box.close()) }()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	box.env = append(box.env, fetchEnv+"="+release)
	tries := 0
	err = poll(ctx, downloadPause, func() (bool, error) {
		err := box.run(ctx, self, box.dir, repository)
		tries++
		if err != nil && tries < 3 {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	dir := os.DirFS(box.dir)
	found, err := fs.Glob(dir, "*.txz")
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("archives %q, want one", found)
	}
	return fs.ReadFile(dir, found[0])
}

// embeddedArchive has the library download an archive into dir and compare its SHA-256 with
// the repository's. Start would go on: unpack it, run initdb (which root may not), start a
// server. A link to nowhere in place of the directory to unpack into stops it right there.
func embeddedArchive(release, dir, from string) error {
	link := filepath.Join(dir, "nowhere")
	if err := os.Symlink(filepath.Join(dir, "missing"), link); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	config := embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.PostgresVersion(release)).
		CachePath(dir).
		RuntimePath(filepath.Join(dir, "runtime")).
		BinariesPath(filepath.Join(link, "binaries")).
		Port(0) // no server gets that far
	if from != "" {
		config = config.BinaryRepositoryURL(from)
	}
	server := embeddedpostgres.NewDatabase(config)
	switch err := server.Start(); {
	case err == nil:
		return errors.Join(errors.New("the library started a server"), server.Stop())
	case errors.Is(err, fs.ErrExist): // the link
		return nil
	default:
		return err
	}
}
