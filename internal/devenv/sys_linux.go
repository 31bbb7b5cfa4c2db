package devenv

import "syscall"

// setDeathSignal has the kernel send sig to the child when the thread that started it
// ends (prctl(2), PR_SET_PDEATHSIG); see startProcess.
func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }
