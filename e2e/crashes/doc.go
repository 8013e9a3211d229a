// Package crashes holds the promises against real file systems and against the
// end of a real process. It needs root, and no engine: containers and volumes
// are those of restore/enginetest, everything else is the real thing.
//
// # Power loss
//
// A small FUSE server serves one file, the disk, below a loop device. It writes
// down every write and every flush, in their order (the loop device makes an
// fsync of REQ_FLUSH and of REQ_FUA). An operation runs on a file system on
// that disk. Then crash images are made: what was on the disk at the last flush
// before some moment, and none, all, or some of the blocks that were written
// since. Each is mounted, so that the file system replays its log, an engine
// boots on it, and recovery must lead to one of the two ends. Two controls, an
// ext4 without a journal and one without barriers, must fail: they show that
// the images are as bad as a power loss is.
//
// # SIGKILL
//
// A process of its own carries an operation out under a seccomp filter that
// reports each system call that changes something. It is killed at the first
// of them, at the second, and so on to the last; then another one recovers, and
// is killed, too.
//
// # What a run leaves
//
// The test binary runs itself in a mount namespace of its own, whose mounts end
// with it, and so do loop devices, which clear themselves, and the FUSE server,
// which ends with its parent. What a killed run leaves is an empty directory,
// which the next one uses. Two runs at once exclude each other by a lock.
package crashes
