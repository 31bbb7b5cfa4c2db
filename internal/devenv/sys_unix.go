//go:build unix

package devenv

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// SIGSTOP and SIGCONT do not exist in package syscall on every system.
const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// account is whom the servers run as; nil is ourselves.
type account struct{ uid, gid int }

// serverAccount returns nobody for root, since PostgreSQL refuses root, else nil.
func serverAccount() *account {
	if os.Geteuid() != 0 {
		return nil
	}
	a := &account{uid: 65534, gid: 65534}
	if u, err := user.Lookup("nobody"); err == nil {
		// macOS has -2, which the system calls take as its two's complement.
		uid, errUID := strconv.ParseInt(u.Uid, 10, 64)
		gid, errGID := strconv.ParseInt(u.Gid, 10, 64)
		if errUID == nil && errGID == nil {
			a.uid, a.gid = int(uint32(uid)), int(uint32(gid))
		}
	}
	return a
}

// prepare puts cmd into a process group of its own, so that a Ctrl-C at the terminal
// reaches us alone, and under the account.
func prepare(cmd *exec.Cmd, as *account, whenWeDie syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	}
	setDeathSignal(cmd.SysProcAttr, whenWeDie)
}

// detach gives cmd a session of its own: what ends us must not end it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func kill(pid int, sig syscall.Signal) error { return syscall.Kill(pid, sig) }

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, err
}

func supported() error { return nil }
