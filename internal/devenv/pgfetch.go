package devenv

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/xi2/xz"
)

// newestPostgres is downloaded when any version will do and the machine has none.
const newestPostgres = "18"

// postgresReleases maps a major version to the release that is downloaded for it: binaries
// that io.zonky.test builds for embedding, about 15 MB (postgres, initdb, pg_ctl, libraries).
var postgresReleases = map[string]string{
	"14": "14.23.0",
	"15": "15.19.0",
	"16": "16.15.0",
	"17": "17.11.0",
	"18": "18.4.0",
}

// fetchPostgres returns the bin directory of a downloaded PostgreSQL. version is a major
// one, "17", or a release of Maven Central, "17.11.0".
func fetchPostgres(ctx context.Context, version string) (string, error) {
	platform := postgresPlatform()
	release := version
	if r, ok := postgresReleases[version]; ok {
		release = r
		if version == "14" && (platform == "darwin-amd64" || strings.HasSuffix(platform, "-alpine")) {
			release = "14.22.0" // 14.23.0 was not built for these
		}
	}
	dir, err := cached(ctx, "postgres-"+release+"-"+platform, func(dir string) error {
		archive, err := fetchArchive(ctx, release)
		if err != nil {
			return err
		}
		plain, err := xz.NewReader(bytes.NewReader(archive), 0)
		if err != nil {
			return err
		}
		if err := untar(plain, dir); err != nil {
			return err
		}
		_, err = inspectPostgres(ctx, filepath.Join(dir, "bin")) // it runs on this machine
		return err
	})
	if err != nil {
		return "", fmt.Errorf("download PostgreSQL %s: %w", release, err)
	}
	return filepath.Join(dir, "bin"), nil
}

// postgresPlatform is how the artifacts are named.
func postgresPlatform() string {
	arch := runtime.GOARCH
	if arch == "arm64" {
		arch = "arm64v8"
	}
	if _, err := os.Stat("/etc/alpine-release"); err == nil {
		arch += "-alpine"
	}
	return runtime.GOOS + "-" + arch
}

// untar unpacks an archive, readable for everybody; nothing in it can lead out of dir.
func untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := untarOne(root, header, archive); err != nil {
			return fmt.Errorf("unpack %s: %w", header.Name, err)
		}
	}
}

func untarOne(root *os.Root, header *tar.Header, r io.Reader) error {
	name := path.Clean(header.Name)
	if !filepath.IsLocal(name) {
		return errors.New("it leads out of the directory")
	}
	if header.Typeflag == tar.TypeDir {
		return openDirs(root, name)
	}
	if err := openDirs(root, path.Dir(name)); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		mode := os.FileMode(0o644)
		if header.Mode&0o100 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Chmod(mode), f.Close())
	}
	return nil // nothing else is in there
}

// openDirs makes a directory and its parents, open to everybody whatever the umask.
func openDirs(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if err := openDirs(root, path.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return root.Chmod(name, 0o755)
}
