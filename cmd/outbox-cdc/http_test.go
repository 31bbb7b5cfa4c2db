package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	registry, err := newRegistry()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		stats cdc.Stats
		code  int
		want  readiness
	}{
		"starting": {cdc.Stats{State: cdc.Starting, NotReady: "starting: connection refused"}, 503,
			readiness{State: cdc.Starting, Reason: "starting: connection refused"}},
		"streaming": {cdc.Stats{State: cdc.Streaming, Ready: true}, 200, readiness{Ready: true, State: cdc.Streaming}},
		"stalled": {cdc.Stats{State: cdc.Streaming, NotReady: "no acknowledgement for 31s"}, 503,
			readiness{State: cdc.Streaming, Reason: "no acknowledgement for 31s"}},
		"standby": {cdc.Stats{State: cdc.Standby, Ready: true, Reason: "pid 7 holds the slot"}, 200,
			readiness{Ready: true, State: cdc.Standby, Reason: "pid 7 holds the slot"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(newHandler(func() cdc.Stats { return tc.stats },
				func() any { return map[string]string{"version": "x"} }, registry))
			defer server.Close()

			code, body := get(t, server.URL+"/readyz")
			var got readiness
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("/readyz says %q: %v", body, err)
			}
			if code != tc.code || got != tc.want {
				t.Errorf("/readyz: %d %+v, want %d %+v", code, got, tc.code, tc.want)
			}
			if code, body := get(t, server.URL+"/healthz"); code != 200 || body != "ok\n" {
				t.Errorf("/healthz: %d %q, want 200 whatever the relay's state", code, body)
			}
			if code, body := get(t, server.URL+"/api/status"); code != 200 || body != `{"version":"x"}`+"\n" {
				t.Errorf("/api/status: %d %q", code, body)
			}
			code, body = get(t, server.URL+"/metrics")
			for _, metric := range []string{"outbox_cdc_build_info{", "go_goroutines ", "process_open_fds "} {
				if code != 200 || !strings.Contains(body, metric) {
					t.Errorf("/metrics: %d, lacks %s", code, metric)
				}
			}
			if code, _ := get(t, server.URL+"/nothing"); code != 404 {
				t.Errorf("/nothing: %d", code)
			}
			if code, body := get(t, server.URL+"/"); code != 200 || !strings.Contains(body, "/metrics") {
				t.Errorf("/: %d %q", code, body)
			}
		})
	}
}

func TestHandlerChangesNothing(t *testing.T) {
	t.Parallel()
	registry, err := newRegistry()
	if err != nil {
		t.Fatal(err)
	}
	handler := newHandler(func() cdc.Stats { return cdc.Stats{} }, func() any { return nil }, registry)
	for _, path := range []string{"/", "/healthz", "/readyz", "/api/status", "/metrics"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	first, err := listen("127.0.0.1:0", http.NotFoundHandler(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close(t.Context())
	if code, _ := get(t, "http://"+first.Address()); code != 404 {
		t.Errorf("got %d", code)
	}
	_, err = listen(first.Address(), http.NotFoundHandler(), log)
	if fault.KindOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), first.Address()) {
		t.Errorf("a taken address: %v, hint %q", err, fault.HintOf(err))
	}
}
