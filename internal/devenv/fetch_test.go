//go:build unix

package devenv

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// library serves a release as a repository does: a jar with an archive, and its SHA-256.
type library struct {
	*httptest.Server
	jar    []byte
	sum    string
	broken atomic.Int32 // so many requests fail first
	jars   atomic.Int32 // so many were asked for
}

const release, archived = "17.11.0", "not unpacked here"

func newLibrary(t *testing.T) *library {
	t.Helper()
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	f, err := w.Create("postgres.txz")
	if err == nil {
		_, err = io.WriteString(f, archived)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	l := &library{jar: jar.Bytes(), sum: fmt.Sprintf("%x", sha256.Sum256(jar.Bytes()))}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".jar") {
			l.jars.Add(1)
		}
		switch {
		case l.broken.Add(-1) >= 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "-"+release+".jar"):
			_, _ = w.Write(l.jar)
		case strings.HasSuffix(r.URL.Path, "-"+release+".jar.sha256"):
			_, _ = io.WriteString(w, l.sum)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(l.Close)
	return l
}

// Not parallel: it replaces repository.
func TestFetchArchive(t *testing.T) {
	defer func(was string, pause time.Duration) { repository, downloadPause = was, pause }(repository, downloadPause)
	downloadPause = time.Millisecond
	for _, tt := range []struct {
		name    string
		release string
		prepare func(*library)
		jars    int32
		want    string // of the error
	}{
		{"good", release, func(*library) {}, 1, ""},
		{"recovers", release, func(l *library) { l.broken.Store(2) }, 3, ""},
		{"stays broken", release, func(l *library) { l.broken.Store(9) }, 3, "no version found"},
		{"not there", "17.999.0", func(*library) {}, 3, "no version found"},
		{"not what was meant", release, func(l *library) { l.sum = strings.Repeat("0", 64) }, 3, "checksums do not match"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLibrary(t)
			tt.prepare(l)
			repository = l.URL
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			archive, err := fetchArchive(t.Context(), tt.release)
			if tt.want == "" && (err != nil || string(archive) != archived) {
				t.Errorf("fetchArchive = %q, %v", archive, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("fetchArchive = %v, want an error with %q", err, tt.want)
			}
			if got := l.jars.Load(); got != tt.jars {
				t.Errorf("%d jars asked for, want %d", got, tt.jars)
			}
			checkEmpty(t, temp)
		})
	}
}

// Not parallel: it replaces repository.
func TestFetchArchiveGivesUp(t *testing.T) {
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	defer func(was string) { repository = was }(repository)
	repository = server.URL
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	if _, err := fetchArchive(ctx, release); !errors.Is(err, context.Canceled) {
		t.Errorf("fetchArchive = %v, want %v", err, context.Canceled)
	}
	checkEmpty(t, temp)
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

func writeScript(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// A script stands for Maven, which is real in TestKafka on a machine with an empty cache.
func TestFetchKafka(t *testing.T) {
	temp, dir := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("HOME", "/home/of/the/user")
	maven := filepath.Join(dir, "mvn")
	for name, tt := range map[string]struct{ body, want string }{
		"copies": {`for arg; do case $arg in
			*/pom.xml) pom=$arg ;;
			-DoutputDirectory=*) out=${arg#*=} ;;
			esac; done
			grep -q "<version>` + kafkaVersion + `</version>" "$pom" && [ "$HOME" = /home/of/the/user ] && : >"$out/kafka.jar"`, ""},
		"fails": {"echo no route to the repository; exit 1", "no route to the repository"},
	} {
		t.Run(name, func(t *testing.T) {
			writeScript(t, maven, tt.body)
			err := fetchKafka(t.Context(), maven, dir)
			if tt.want == "" && (err != nil || !exists(filepath.Join(dir, "kafka.jar"))) {
				t.Errorf("fetchKafka = %v, jar there: %t", err, exists(filepath.Join(dir, "kafka.jar")))
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("fetchKafka = %v, want an error with %q", err, tt.want)
			}
			checkEmpty(t, temp)
		})
	}
	t.Run("gives up", func(t *testing.T) {
		writeScript(t, maven, "exec sleep 600")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := fetchKafka(ctx, maven, dir); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fetchKafka = %v, want a deadline exceeded", err)
		}
		checkEmpty(t, temp)
	})
}

// archive makes a tar file.
func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len("content"))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, "content"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// The server's account must be able to read and run what was unpacked. Not parallel: the
// umask is the process's.
func TestUntarOpensEverything(t *testing.T) {
	dir := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o077))
	err := untar(archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./share/", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "bin/postgres", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "share/conf", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "postgres"},
	), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		"bin": 0o755, "share": 0o755, "bin/postgres": 0o755, "bin/link": 0o755, "share/conf": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
}

func TestUntarStaysInside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"parent":   {{Typeflag: tar.TypeReg, Name: "../evil", Mode: 0o600}},
		"by link":  {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "out/evil", Mode: 0o600}},
		"absolute": {{Typeflag: tar.TypeReg, Name: "/evil", Mode: 0o600}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outer := t.TempDir()
			dir := filepath.Join(outer, "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := untar(archive(t, headers...), dir); err == nil {
				t.Error("no error")
			}
			if exists(filepath.Join(outer, "evil")) || exists("/evil") {
				t.Error("a file outside of the directory")
			}
		})
	}
}

func TestJavaMajor(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]int{
		"openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime": 17,
		"java version \"1.8.0_392\"":                              1,
		"openjdk version \"25\" 2025-09-16":                       25,
		"The operation couldn't be completed.":                    0,
	} {
		if got := javaMajor(said); got != want {
			t.Errorf("javaMajor(%q) = %d, want %d", said, got, want)
		}
	}
}

func TestNoJava(t *testing.T) {
	home, path := t.TempDir(), t.TempDir()
	t.Setenv("JAVA_HOME", home)
	t.Setenv("PATH", path+":/usr/bin:/bin")
	writeScript(t, filepath.Join(path, "mvn"), "")
	check := func(what string, wants ...string) {
		t.Helper()
		_, err := lookForJava()
		if !errors.Is(err, ErrNoJava) {
			t.Errorf("%s: %v, want %v", what, err, ErrNoJava)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", what, err, want)
			}
		}
	}
	check("without a java", filepath.Join(home, "bin", "java"))
	if err := os.Mkdir(filepath.Join(home, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	java := filepath.Join(home, "bin", "java")
	for body, want := range map[string]string{
		`echo 'openjdk version "11.0.2"' >&2`: "version 11",
		"echo get one; exit 1":                "get one",
	} {
		writeScript(t, java, body)
		check("a java that does "+body, want)
	}
	// It fails once, and answers then.
	writeScript(t, java, `mkdir "$0.asked" && exit 1; echo 'openjdk version "21.0.1"' >&2`)
	if _, err := lookForJava(); err != nil {
		t.Errorf("a java that fails once: %v", err)
	}
	t.Setenv("PATH", home) // java is found by JAVA_HOME
	writeScript(t, java, `echo 'openjdk version "21.0.1"' >&2`)
	check("without Maven", `"mvn"`)
}
