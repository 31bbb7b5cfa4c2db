//go:build unix && !linux

package devenv

import "syscall"

// setDeathSignal does nothing here: the guardian alone ends the servers when we die.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
