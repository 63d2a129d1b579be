//! REST: a request becomes a command.
