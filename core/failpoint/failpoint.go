// Package failpoint names the places where a test may kill or hang the process,
// so that what a power cut or a SIGKILL leaves behind there can be seen.
//
// It is compiled in only with the build tag "failpoints"; without the tag Hit is
// empty and costs nothing. The file /run/rewind/failpoint arms one place, by
// one line:
//
//	NAME[#N] ACTION
//
// N is the Nth time this process comes there, 1 if left out. The actions are
//
//	kill       SIGKILL to this process
//	groupkill  SIGKILL to every process of this process's control group
//	hang       stay until the file /run/rewind/failpoint is gone
//
// Before any of them NAME is written to /run/rewind/failpoint.reached and to the
// console, which is how a test outside of the machine hears of it. The two kills
// remove the file first: what cleans up after the process may pass there too.
package failpoint
