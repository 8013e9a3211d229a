package restore

import "errors"

var (
	// ErrNoSuch says that the engine has no such container, volume or image.
	ErrNoSuch = errors.New("no such object")
	// ErrUnreachable says that the engine did not answer at all: it is down
	// or being started again. The call may have had its effect.
	ErrUnreachable = errors.New("the engine cannot be reached")
	// ErrDriver says that the engine got no answer from a volume's driver: it
	// ended meanwhile, or is being started again. The call had no effect.
	ErrDriver = errors.New("the volume driver did not answer")
	// ErrRemains says that the remains of an earlier start, whose engine was
	// killed in it, were in the way of this one. It has taken them away, or
	// containerd is about to.
	ErrRemains = errors.New("the remains of a start that was killed were in the way")
)
