package devenv

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// ErrNoJava says that the machine cannot run Apache Kafka.
var ErrNoJava = errors.New("Apache Kafka needs a Java runtime, version 17 or later, on PATH or in JAVA_HOME")

// oldestJava is what the brokers of Kafka 4 need (https://kafka.apache.org/43/operations/java-version).
const oldestJava = 17

// kafkaVersion is the release of kafka-jars.txt.
const kafkaVersion = "4.3.1"

// kafkaJars is what the broker loads, as Maven resolves org.apache.kafka:kafka_2.13 with
// slf4j-simple: SHA-256 and path in the repository, one jar a line. It is spelt out here so
// that neither Maven nor a trusted download is needed.
//
//go:embed kafka-jars.txt
var kafkaJars string

// java is a runtime that is good enough for Kafka.
type java struct {
	path    string
	version string // all that java -version says
}

// HaveJava says whether StartKafka finds a Java runtime.
func HaveJava() bool {
	_, err := findJava()
	return err == nil
}

// findJava is asked once: the answer takes a JVM start.
var findJava = sync.OnceValues(func() (java, error) {
	name := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		name = filepath.Join(home, "bin", "java")
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return java{}, ErrNoJava
	}
	out, err := exec.Command(found, "-version").CombinedOutput()
	if err != nil { // macOS has a java that only says where to get one
		return java{}, fmt.Errorf("%w: %s -version: %w", ErrNoJava, found, err)
	}
	if major := javaMajor(string(out)); major < oldestJava {
		return java{}, fmt.Errorf("%w: %s is version %d", ErrNoJava, found, major)
	}
	return java{path: found, version: string(out)}, nil
})

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// javaMajor reads `openjdk version "17.0.15" 2025-04-15`; it is 1 for Java 8 and 0 for nonsense.
func javaMajor(said string) int {
	match := javaVersion.FindStringSubmatch(said)
	if match == nil {
		return 0
	}
	major, _ := strconv.Atoi(match[1])
	return major
}

// kafkaHome returns the directory with Kafka's jars, downloading them (44 MB) when needed.
func kafkaHome(ctx context.Context) (string, error) {
	dir, err := cached(ctx, "kafka-"+kafkaVersion+"-"+digest(kafkaJars), func(dir string) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		jars := make(chan string)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for line := range jars {
					if err := fetchJar(ctx, dir, line); err != nil {
						cancel(err)
					}
				}
			})
		}
		for line := range strings.Lines(kafkaJars) {
			jars <- strings.TrimSpace(line)
		}
		close(jars)
		wg.Wait()
		return context.Cause(ctx)
	})
	if err != nil {
		return "", fmt.Errorf("download Apache Kafka: %w", err)
	}
	return dir, nil
}

func fetchJar(ctx context.Context, dir, line string) error {
	sum, artifact, ok := strings.Cut(line, " ")
	if !ok {
		return fmt.Errorf("kafka-jars.txt: %q", line)
	}
	jar, err := download(ctx, artifact, sum)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, path.Base(artifact)), jar, 0o644)
}

// digest is a short name for what a cached directory depends on.
func digest(of ...any) string {
	sum := sha256.Sum256(fmt.Append(nil, of...))
	return fmt.Sprintf("%x", sum[:6])
}
