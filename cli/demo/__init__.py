"""`callbus demo`: a whole call on this machine, dialled, listened to and checked."""
