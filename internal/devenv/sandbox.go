package devenv

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed guardian.sh
var guardianScript string

// sandbox is a temporary directory and the processes that work in it. Its guardian ends
// both when we close the sandbox, and also when we die without doing so.
type sandbox struct {
	dir string
	as  *account // whom the processes run as; nil: ourselves
	env []string // of the processes

	mu       sync.Mutex
	guardian *exec.Cmd
	pipe     *os.File // its standard input; never written to by anything else
}

// newSandbox makes a directory named after kind that belongs to the account.
func newSandbox(kind string, as *account) (*sandbox, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	parent, err := tempDir(as)
	if err != nil {
		return nil, err
	}
	s := &sandbox{as: as, dir: filepath.Join(parent, "outbox-cdc-"+kind+"-"+strings.ToLower(rand.Text()))}
	s.env = serverEnv(s.dir)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.pipe = w
	// The script comes by the environment to keep it out of ps.
	s.guardian = exec.Command("/bin/sh", "-c", `eval "$OUTBOX_CDC_GUARDIAN"`, "outbox-cdc-guardian", s.dir)
	s.guardian.Env = append(os.Environ(), "OUTBOX_CDC_GUARDIAN="+guardianScript)
	s.guardian.Stdin = r
	s.guardian.Dir = "/"
	detach(s.guardian)
	// Before the directory: from here on a crash leaves nothing behind.
	err = s.guardian.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start the guardian: %w", err)
	}
	err = os.Mkdir(s.dir, 0o700)
	if err == nil {
		err = s.chown(s.dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// newToolbox makes a sandbox for programs that fetch something. They run as ourselves and
// with our environment: its proxies, the user's settings in the home directory.
func newToolbox(kind string) (*sandbox, error) {
	s, err := newSandbox(kind, nil)
	if err != nil {
		return nil, err
	}
	s.env = append(os.Environ(), "TMPDIR="+s.dir)
	return s, nil
}

// tempDir returns a directory for temporary files that the account can reach.
func tempDir(as *account) (string, error) {
	dir, err := filepath.Abs(os.TempDir())
	if err != nil || as == nil {
		return dir, err
	}
	if err = traversable(dir); err != nil && traversable("/tmp") == nil {
		return "/tmp", nil
	}
	return dir, err
}

// close ends what still runs and removes the directory.
func (s *sandbox) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guardian == nil {
		return nil
	}
	_ = s.pipe.Close()
	err := s.guardian.Wait() // its exit code says nothing: look at the directory
	s.guardian = nil
	if rmErr := os.RemoveAll(s.dir); rmErr != nil {
		return fmt.Errorf("remove %s: %w (guardian: %w)", s.dir, rmErr, err)
	}
	return nil
}

func (s *sandbox) tell(op string, sig syscall.Signal, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "KILL"
	if sig == syscall.SIGQUIT {
		name = "QUIT"
	}
	_, err := fmt.Fprintf(s.pipe, "%s %s:%d\n", op, name, pid)
	return err
}

// start starts a server under the account, in the directory, in a process group of its
// own, with its output appended to the file log. end is the signal that makes it go at
// once: what it gets when we die.
func (s *sandbox) start(end syscall.Signal, log, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(s.path(log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = s.env
	cmd.Stdout, cmd.Stderr = out, out
	prepare(cmd, s.as, end)
	p, err := startProcess(cmd, func(pid int) { _ = s.tell("del", end, pid) })
	if err != nil {
		return nil, err
	}
	if err := s.tell("add", end, p.pid); err != nil {
		_ = p.signal(syscall.SIGKILL)
		<-p.done
		return nil, fmt.Errorf("the guardian has gone: %w", err)
	}
	return p, nil
}

// run runs a program under the account to its end, and returns what it wrote when it failed.
func (s *sandbox) run(ctx context.Context, name string, args ...string) error {
	log := fmt.Sprintf("run-%s.log", rand.Text())
	defer func() { _ = os.Remove(s.path(log)) }()
	p, err := s.start(syscall.SIGKILL, log, name, args...)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s: %w", filepath.Base(name), context.Cause(ctx))
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w:\n%s", filepath.Base(name), p.err, tail(s.path(log)))
	}
	return nil
}

func (s *sandbox) path(name string) string { return filepath.Join(s.dir, name) }

// chown gives path, and all that is in it, to the account.
func (s *sandbox) chown(path string) error {
	if s.as == nil {
		return nil
	}
	return filepath.WalkDir(path, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, s.as.uid, s.as.gid)
	})
}

// write makes a file of the account with the mode 0600, which PostgreSQL demands of keys.
func (s *sandbox) write(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return s.chown(path)
}

// serverEnv is our environment without what would make a server behave otherwise.
func serverEnv(home string) []string {
	env := []string{"HOME=" + home, "LC_ALL=C", "TZ=UTC"}
	for _, key := range []string{"PATH", "JAVA_HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return env
}

// tail returns the end of a log file, at most 64 KiB of it.
func tail(path string) string { return logFrom(path, 0) }

func logSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logFrom returns what was logged after the first start bytes, at most the last 64 KiB of it.
func logFrom(path string, start int64) string {
	const most = 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(start, info.Size()-most)
	data, _ := io.ReadAll(io.NewSectionReader(f, from, most))
	text := string(data)
	if from > start {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

// closeTimeout is what a server gets to end by itself when its environment is closed.
const closeTimeout = 10 * time.Second
