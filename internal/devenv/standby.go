package devenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby starts a hot standby that streams from the server through a physical slot of its
// own, and returns when it takes connections. From PostgreSQL 17 on it also synchronizes the
// server's failover slots. Settings go over the server's own. Close both.
//
// The copy is made by the low-level API of
// https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP:
// a downloaded PostgreSQL has no pg_basebackup.
func (p *Postgres) Standby(ctx context.Context, settings map[string]string) (*Postgres, error) {
	s, err := p.standby(ctx, settings)
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return s, nil
}

func (p *Postgres) standby(ctx context.Context, settings map[string]string) (*Postgres, error) {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	slot := "standby_" + strings.ToLower(rand.Text())
	if _, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", slot); err != nil {
		return nil, err
	}
	box, err := newSandbox("postgres", serverAccount())
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: p.bin, box: box, data: box.path("data")}
	opts := PostgresOptions{Settings: map[string]string{
		"primary_conninfo": fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres application_name=%s", loopback, p.port, slot),
		// What slot synchronization asks for.
		"primary_slot_name":    slot,
		"hot_standby_feedback": "on",
	}}
	if p.Major() >= 17 {
		opts.Settings["sync_replication_slots"] = "on"
	}
	maps.Copy(opts.Settings, settings)
	if err = p.backup(ctx, conn, s); err == nil {
		err = s.configureAndStart(ctx, opts)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// backup copies the running server's data directory into that of s, and makes it a standby's.
func (p *Postgres) backup(ctx context.Context, conn *pgx.Conn, s *Postgres) error {
	start, stop := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if p.Major() < 15 {
		start, stop = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, start); err != nil {
		return err
	}
	if err := copyData(p.data, s.data); err != nil {
		return fmt.Errorf("copy the data directory: %w", err)
	}
	var label string
	if err := conn.QueryRow(ctx, stop).Scan(&label); err != nil {
		return err
	}
	if err := s.box.chown(s.data); err != nil {
		return err
	}
	if err := s.WriteFile("backup_label", []byte(label)); err != nil {
		return err
	}
	return s.WriteFile("standby.signal", nil)
}

// copyData copies a data directory that is in use, without what belongs to the running
// server: its WAL comes by streaming, its slots and its lock file are its own.
func copyData(from, to string) error {
	leftOut := map[string]bool{
		"postmaster.pid": true, "postmaster.opts": true,
		"pg_wal": true, "pg_replslot": true, "pg_dynshmem": true, "pg_notify": true, "pg_stat_tmp": true, "pg_subtrans": true,
	}
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was dropped: replay drops it, too
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch parent, _, nested := strings.Cut(name, string(filepath.Separator)); {
		case leftOut[parent] && (nested || !entry.IsDir()):
			return nil
		case entry.IsDir():
			return os.Mkdir(target, 0o700)
		default:
			return copyFile(path, target)
		}
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Promote makes a standby a primary and returns when it is one.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.WriteFile("promote", nil); err != nil {
		return err
	}
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if !p.Running() {
			return false, errors.New("promote: the server ended")
		}
		_, err := os.Stat(filepath.Join(p.data, "standby.signal"))
		return errors.Is(err, fs.ErrNotExist) && p.ready(), nil
	})
}
