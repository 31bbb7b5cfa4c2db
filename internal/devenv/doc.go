// Package devenv runs what the relay needs on this machine, without Docker: a
// throw-away PostgreSQL, a throw-away Apache Kafka, and an in-process Kafka
// (kfake). The demo, the tests and the benchmarks use it; the relay does not.
//
// Binaries are taken from the machine when it has the version asked for, else
// from Maven Central, once, into the user's cache directory: PostgreSQL by the
// library embedded-postgres, Kafka by the machine's mvn.
//
// Everything listens on loopback only, and everything goes when it is closed:
// processes, shared memory, files. It goes as well when the owner dies without
// closing it. Each environment has a guardian, a small shell that waits for our
// end of a pipe to close; on Linux the kernel ends the servers besides.
//
// PostgreSQL refuses to run as root. For root the server runs as nobody, and
// the cache moves to /var/cache/outbox-cdc, which nobody can read.
//
// The package needs a Unix (Linux or macOS); elsewhere it compiles, and the
// servers return an error. It has no place in a container image: what imports
// it for users, the demo command, is left out by the build tag nodevenv.
package devenv
