// Package restore is the domain: it makes snapshots of a workload's volumes
// and puts them back, all volumes together or none.
//
// A restore plans, verifies and stages while the old data is in use, then
// stops the workload, fences every volume off by exchanging its directory for
// a dangling link, decides by one rename in the journal, exchanges the staged
// trees in, and starts the same containers again. The replaced trees are kept
// by rename as a safety snapshot, so that an undo is another swap and costs
// the same whatever the size.
//
// A crash leaves a journal record and the shapes of three names a volume; the
// table in recover_linux.go maps each pair to one action. Before that ran, no
// container starts on a mixed set, since a dangling directory refuses a mount.
package restore
