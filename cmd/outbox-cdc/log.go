package main

import (
	"io"
	"log/slog"
	"strings"
	"time"
)

// newLogger returns the log of a long-running command: one line per event,
// with the keys that the structured logs of Python services use: timestamp
// (ISO 8601, UTC), level in lower case, and event, an outbox.* name.
func newLogger(w io.Writer, c LogConfig) *slog.Logger {
	var level slog.Level
	// The configuration allows only levels that slog knows.
	_ = level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: renameKeys}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func renameKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("timestamp", a.Value.Time().UTC().Format(time.RFC3339Nano))
	case slog.LevelKey:
		return slog.String("level", strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		a.Key = "event"
	}
	return a
}
