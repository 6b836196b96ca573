"""What crosses the wire between server and clients: messages, their encoding, their checks."""
