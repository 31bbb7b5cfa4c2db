package devenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
)

// ErrNoJava says that the machine cannot run Apache Kafka. What wraps it says which is missing.
var ErrNoJava = errors.New("no Apache Kafka without Java 17 or later and Maven")

// oldestJava is what the brokers of Kafka 4 need (https://kafka.apache.org/43/operations/java-version).
const oldestJava = 17

// java is a runtime that is good enough for Kafka, and what fetches Kafka.
type java struct {
	path    string
	version string // all that java -version says
	maven   string // path of mvn
}

// HaveJava says whether StartKafka finds a Java runtime, on PATH or in JAVA_HOME, and mvn on PATH.
func HaveJava() bool {
	_, err := findJava()
	return err == nil
}

// findJava looks once: the answer takes a JVM start.
var findJava = sync.OnceValues(lookForJava)

func lookForJava() (java, error) {
	name := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		name = filepath.Join(home, "bin", "java")
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return java{}, fmt.Errorf("%w: %w", ErrNoJava, err)
	}
	out, err := javaSays(found)
	if err != nil { // macOS has a java that only says where to get one
		return java{}, fmt.Errorf("%w: %s -version: %w: %s", ErrNoJava, found, err, bytes.TrimSpace(out))
	}
	if major := javaMajor(string(out)); major < oldestJava {
		return java{}, fmt.Errorf("%w: %s is version %d", ErrNoJava, found, major)
	}
	maven, err := exec.LookPath("mvn")
	if err != nil {
		return java{}, fmt.Errorf("%w: %w", ErrNoJava, err)
	}
	return java{path: found, version: string(out), maven: maven}, nil
}

// javaSays asks for the version, and asks again: a machine that is short of memory for a
// moment must not pass for one without Java, for tests are skipped there.
func javaSays(path string) (out []byte, err error) {
	for range 3 {
		out, err = exec.Command(path, "-Xmx32m", "-XX:-UsePerfData", "-version").CombinedOutput()
		if err == nil {
			return out, nil
		}
	}
	return out, err
}

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
