package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/outbox-cdc/outbox-cdc/internal/walsim"
)

// witness reads the relay's log for trouble that it gets over, and that should
// never have been: a part that broke another part's contract.
type witness struct {
	slog.Handler
	oracle *walsim.Oracle
}

// never are the beginnings of such errors.
var never = []string{"checkpoint: ", "decode: "}

// Enabled is part of slog.Handler.
func (w witness) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || w.Handler.Enabled(ctx, level)
}

// Handle is part of slog.Handler.
func (w witness) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		text := fmt.Sprint(a.Value.Any())
		for _, n := range never {
			if strings.HasPrefix(text, n) {
				w.oracle.Breach("%s: %s", r.Message, text)
			}
		}
		return true
	})
	if !w.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}
