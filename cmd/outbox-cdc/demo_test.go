//go:build !nodevenv

package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	// The cache is the user's: without a home it would be left in the directory of temporary files.
	home := []string{"HOME=" + os.Getenv("HOME"), "XDG_CACHE_HOME=" + os.Getenv("XDG_CACHE_HOME")}
	got := runCommand(t, home, "demo", "--events=20", "--rate=50", "--listen=127.0.0.1:0")
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("exit code %d\nstdout:\n%s\nstderr:\n%s", got.code, got.stdout, got.stderr)
	}
	for _, want := range []string{"outbox.event.order/", "outbox.event.payment/", "\n20 events shown", " 0 of their events arrived\n", "ms after COMMIT\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("the demo shows no %q:\n%s", want, got.stdout)
		}
	}
}

// TestDemoTopicsAreThere: no event waits for its topic to be created, which
// takes longer than all that the relay does.
func TestDemoTopicsAreThere(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out}
	d := &demo{command: &demoCmd{}, app: a, show: newDisplay(a.stdout, 0)}
	defer d.close()
	if err := d.startServers(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, topic := range demoTopics {
		info := d.kafka.Cluster.TopicInfo(topic)
		if info == nil {
			t.Errorf("%s does not exist before its first event", topic)
		}
	}
	if want := []string{"outbox.event.order", "outbox.event.payment"}; !slices.Equal(demoTopics, want) {
		t.Errorf("the demo's consumer reads %v, want %v", demoTopics, want)
	}
}
