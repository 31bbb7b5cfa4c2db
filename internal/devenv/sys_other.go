//go:build !unix

package devenv

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

const (
	sigStop = syscall.Signal(19)
	sigCont = syscall.Signal(18)
)

type account struct{ uid, gid int }

func serverAccount() *account                     { return nil }
func prepare(*exec.Cmd, *account, syscall.Signal) {}
func detach(*exec.Cmd)                            {}
func kill(int, syscall.Signal) error              { return errors.ErrUnsupported }
func ownedByUs(fs.FileInfo) bool                  { return true }
func tryLock(*os.File) (bool, error)              { return true, nil }

func supported() error {
	return errors.New("throw-away servers need Linux or macOS, not " + runtime.GOOS)
}
