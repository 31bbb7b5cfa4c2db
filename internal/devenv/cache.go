package devenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// cacheDir returns the directory that keeps what was downloaded or prepared,
// creating it. The account that the servers run under can read it, and nobody
// but us can write to it: programs are run from there.
func cacheDir() (string, error) {
	var dirs []string
	if user, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(user, "outbox-cdc"))
	}
	if os.Geteuid() == 0 {
		dirs = append(dirs, "/var/cache/outbox-cdc")
	}
	dirs = append(dirs, filepath.Join(os.TempDir(), fmt.Sprintf("outbox-cdc-cache-%d", os.Geteuid())))
	var errs []error
	for _, dir := range dirs {
		err := prepareCache(dir)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("cache directory: %w", errors.Join(errs...))
}

func prepareCache(dir string) error {
	if os.Geteuid() == 0 {
		if err := traversable(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || !ownedByUs(info) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only we can write to", dir)
	}
	if os.Geteuid() == 0 {
		// The umask may have taken away what the servers' account needs.
		return os.Chmod(dir, 0o755)
	}
	return nil
}

// traversable reports, as an error, a directory on the way to path, or path itself, that
// another account cannot enter. What does not exist yet is passed over.
func traversable(path string) error {
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode().Perm()&0o005 != 0o005:
			return fmt.Errorf("%s is closed to the account that the server runs under", dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// cached returns the directory name of the cache, filling it when it is not there. fill
// gets a directory that becomes the cached one only when fill returned nil, so a
// directory of the cache is always whole. Processes that want the same one wait for the
// first.
func cached(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	root, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, name)
	if isDir(dir) {
		return dir, nil
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	defer unlock()
	if isDir(dir) { // another process was faster
		return dir, nil
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil { // left by a process that died
		return "", err
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return "", err
	}
	err = fill(partial)
	if err == nil {
		err = os.Chmod(partial, 0o755)
	}
	if err == nil {
		err = os.Rename(partial, dir)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(partial))
	}
	return dir, nil
}

// digest is a short name for what a cached directory depends on.
func digest(of ...any) string {
	sum := sha256.Sum256(fmt.Append(nil, of...))
	return hex.EncodeToString(sum[:6])
}

// lockFile takes the advisory lock on path, which the kernel releases when we die.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) { return tryLock(f) })
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// poll calls done at once and then each interval, until it says true or fails, or ctx ends.
func poll(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
