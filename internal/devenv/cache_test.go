//go:build unix

package devenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// useCache points the cache at a directory of the test's; not for parallel tests.
func useCache(t *testing.T) string {
	t.Helper()
	dir := openTempDir(t)
	t.Setenv("HOME", dir) // macOS
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, ".cache"))
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(cache, dir) {
		t.Fatalf("cacheDir() = %s, want one below %s", cache, dir)
	}
	return cache
}

// openTempDir returns a directory that other accounts can enter; t.TempDir's parent is closed.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCachedFillsOnce(t *testing.T) {
	useCache(t)
	var fills atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := cached(t.Context(), "thing", func(dir string) error {
				fills.Add(1)
				time.Sleep(100 * time.Millisecond) // the others come while it is half done
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if !exists(filepath.Join(dir, "file")) {
				t.Error("a directory that is not whole")
			}
		})
	}
	wg.Wait()
	if got := fills.Load(); got != 1 {
		t.Errorf("filled %d times, want once", got)
	}
}

func TestCachedAfterFailure(t *testing.T) {
	root := useCache(t)
	boom := errors.New("boom")
	_, err := cached(t.Context(), "thing", func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("cached = %v, want %v", err, boom)
	}
	if exists(filepath.Join(root, "thing")) || exists(filepath.Join(root, "thing.partial")) {
		t.Error("a failed fill left something")
	}
	// A process that died while it filled the directory left this.
	if err := os.MkdirAll(filepath.Join(root, "thing.partial", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := cached(t.Context(), "thing", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "half")) {
		t.Error("what a dead process left became part of the directory")
	}
}

func TestCachedGivesUpWaiting(t *testing.T) {
	root := useCache(t)
	unlock, err := lockFile(t.Context(), filepath.Join(root, "thing.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := cached(ctx, "thing", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cached = %v, want a deadline exceeded", err)
	}
}

// Programs are run from the cache: another user must not be able to plant one.
func TestPrepareCacheRefuses(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(openTempDir(t), link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, link} {
		if err := prepareCache(dir); err == nil {
			t.Errorf("prepareCache(%s): no error", dir)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(foreign, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := prepareCache(foreign); err == nil {
		t.Error("prepareCache of another user's directory: no error")
	}
}

func TestTraversable(t *testing.T) {
	t.Parallel()
	dir := openTempDir(t)
	inside := filepath.Join(dir, "closed", "inside")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := traversable(filepath.Join(inside, "to", "come")); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Dir(inside), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := traversable(inside); err == nil {
		t.Error("a directory below a closed one: no error")
	}
}

// Root's own temporary directory may be closed to the account that the servers run under.
func TestTempDirOfAnotherAccount(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", closed)
	if got, err := tempDir(&account{}); err != nil || got != "/tmp" {
		t.Errorf("tempDir = %s, %v, want /tmp", got, err)
	}
	if got, err := tempDir(nil); err != nil || got != closed {
		t.Errorf("tempDir for ourselves = %s, %v, want %s", got, err, closed)
	}
}
