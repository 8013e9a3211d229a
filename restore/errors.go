package restore

import "errors"

// ErrNoSuch says that the engine has no such container, volume or image.
var ErrNoSuch = errors.New("no such object")
