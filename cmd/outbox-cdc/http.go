package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/outbox-cdc/outbox-cdc/cdc"
	"github.com/outbox-cdc/outbox-cdc/internal/fault"
)

// server is the operator's HTTP server. It reads snapshots and changes nothing.
type server struct {
	http     *http.Server
	listener net.Listener
	failed   chan error
}

// readiness is the body of /readyz.
type readiness struct {
	Ready  bool      `json:"ready"`
	State  cdc.State `json:"state"`
	Reason string    `json:"reason,omitempty"`
}

// listen starts to serve handler at address. It listens when it returns.
func listen(address string, handler http.Handler, log *slog.Logger) (*server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fault.New(fault.Usage, "listen", err,
			fmt.Sprintf("http.listen is %q: choose an address that is free, such as 127.0.0.1:0 for any port, or \"\" for no server", address))
	}
	s := &server{
		http: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		listener: listener,
		failed:   make(chan error, 1),
	}
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fault.New(fault.Unexpected, "serve http", err, "")
		}
		close(s.failed)
	}()
	return s, nil
}

// Address returns where it listens, with the port that was chosen for :0.
func (s *server) Address() string { return s.listener.Addr().String() }

// Close lets requests that are being answered finish, until ctx ends.
func (s *server) Close(ctx context.Context) {
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
}

// newHandler serves what stats and the collectors tell. status makes the body of /api/status.
func newHandler(stats func() cdc.Stats, status func() any, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := stats()
		body := readiness{Ready: s.Ready, State: s.State, Reason: s.NotReady}
		code := http.StatusOK
		if !s.Ready {
			code = http.StatusServiceUnavailable
		} else if body.Reason == "" {
			body.Reason = s.Reason // such as who holds the slot
		}
		writeJSON(w, code, body)
	})
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, status())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "outbox-cdc\n\n/healthz\n/readyz\n/metrics\n/api/status\n")
	})
	return mux
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	// The only error is a client that went away.
	_ = json.NewEncoder(w).Encode(body)
}

// newRegistry returns the registry of /metrics: the process, the build and what the parts add.
func newRegistry(parts ...prometheus.Collector) (*prometheus.Registry, error) {
	info := readVersion()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "outbox_cdc_build_info",
		Help: "1, with what this process was built from.",
	}, []string{"version", "commit", "goversion"})
	build.WithLabelValues(info.Version, info.Commit, info.Go).Set(1)

	registry := prometheus.NewRegistry()
	parts = append(parts, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, p := range parts {
		if err := registry.Register(p); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return registry, nil
}
