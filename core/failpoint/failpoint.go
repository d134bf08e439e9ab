// Package failpoint names the places in the code where a test can kill or stop the process, so that the test can check
// what a power cut or a SIGKILL there leaves behind.
//
// It works only with the build tag "failpoints". Without that tag Hit is empty and costs nothing. The file
// /run/rewind/failpoint arms one failpoint. It holds one line:
//
//	NAME[#N] ACTION
//
// The action is taken when this process comes to the failpoint for the Nth time. Without #N that is the first time. The
// actions are
//
//	kill       send SIGKILL to this process
//	groupkill  send SIGKILL to every process in the control group of this process
//	hang       stop until the file /run/rewind/failpoint is removed
//
// Before the action, NAME is written to /run/rewind/failpoint.reached and to the console, where a test outside the
// machine can read it. The actions kill and groupkill first remove the file /run/rewind/failpoint, because the process
// that cleans up afterwards may come to the same failpoint.
package failpoint
