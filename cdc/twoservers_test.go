package cdc_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// alternate forwards connections to one server and the other in turn, as a name
// may that is being moved. It returns its address.
func alternate(t *testing.T, addresses ...string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(func() { _ = listener.Close() })
	all.Go(func() {
		for i := 0; ; i++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", addresses[i%len(addresses)])
			if err != nil {
				_ = client.Close()
				continue
			}
			all.Go(func() { forward(client, server) })
			all.Go(func() { forward(server, client) })
		}
	})
	return listener.Addr().String()
}

func forward(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

// A position of one server is not told to another.
func TestTwoServersBehindOneName(t *testing.T) {
	t.Parallel()
	var servers []*walsim.Server
	var addresses []string
	for _, transactions := range []int{40, 5} {
		s, err := walsim.Start(walsim.Config{WAL: walsim.Generate(walsim.Plan{Seed: 14, Transactions: transactions})})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		servers = append(servers, s)
		addresses = append(addresses, strings.Split(strings.Split(s.URL(), "@")[1], "/")[0])
	}
	oracle := walsim.NewOracle(walsim.Generate(walsim.Plan{Seed: 14, Transactions: 40}))
	r := &rig{oracle: oracle, meter: walsim.StartMeter(), server: servers[0]}
	t.Cleanup(r.meter.Stop)
	sink := newScripted(oracle, 14, func(*scripted) {})
	url := strings.Replace(servers[0].URL(), addresses[0], alternate(t, addresses...), 1)
	relay, err := cdc.New(cdc.Config{URL: url, Columns: []string{"id"}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.sink, r.relay, r.cancel, r.result = sink, relay, cancel, make(chan error, 1)
	go func() { r.result <- relay.Run(ctx) }()
	r.must(t, "several tries", func() bool { return relay.Stats().Reconnects >= 3 })
	if s := relay.Stats(); !strings.Contains(s.Reason, "reached different servers") {
		t.Errorf("the reason is %q", s.Reason)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for i, s := range servers {
		if n := len(s.Updates()); n != 0 {
			t.Errorf("server %d got %d status updates", i, n)
		}
	}
	if n := oracle.Count().Arrivals; n != 0 {
		t.Errorf("%d events were published", n)
	}
}
