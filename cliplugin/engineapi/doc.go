// Package engineapi speaks with a Docker engine, 20.10 (API 1.41) or newer. It
// is the only package that imports the docker client: the client's side uses
// it with the connection of the user's context, the agent with the engine's
// own socket.
//
// Every call is one request of the Engine API; nothing is cached. An error
// that says "no such object" wraps restore.ErrNoSuch; an engine that is down,
// closed to this user or too old becomes a fault with a hint, and one that
// could not be reached at all wraps restore.ErrUnreachable, one that got no
// answer from a volume's driver restore.ErrDriver, and one that met the remains
// of a start that was killed restore.ErrRemains. With Patient a
// call that lost the engine is made again until the engine is back, which is
// safe because every call asks for a state and not for a change.
//
// A crash of either side leaves what the engine had done by then.
package engineapi
