// Package e2e proves the promises of the tool on real engines.
//
// Every test has a Docker engine of its own: data root, exec root, socket,
// process id file, network namespace and cgroup parent, so that it never
// touches another one and may kill it. The suite of packages that the engine
// comes from is named by SNAPRESTORE_E2E_SUITE (scripts/engines fetches them),
// the images are those of scripts/images. Tests look at the state of files,
// containers and the journal, not at what was printed, and wait for conditions
// with a deadline, never for a time.
//
// Everything of a run lies in one directory below SNAPRESTORE_E2E_DIR
// (/var/tmp/snaprestore-e2e), a tmpfs, locked while the run lives; each
// engine's data root is an ext4 file system in a file there. A run that was
// killed leaves processes, mounts and network namespaces; the next run finds
// its directory unlocked and clears them away before it begins, as does the
// test binary when it is told to run no test.
package e2e
