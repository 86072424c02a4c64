// Package rtmp is RTMP as the gateway speaks it: a client that publishes
// ([Dial], [Conn]), a server that receives ([Server]), and the FLV form of media
// that both carry ([Tag] to send, [Packets] to read, [FLVWriter] to keep).
//
// It knows the handshake, chunks, commands, Enhanced RTMP (version 2, by
// veovera/enhanced-rtmp), proxies, TLS, what kind of failure an error is ([Class]),
// and what a received stream looks like from outside ([StreamStats]). It does not
// know access units, targets, retries or policy: the plugins that use it do.
//
// # Chunks
//
// Reading and writing of chunks are the package's own, so that one mutex covers
// every write of a connection, a message is never copied on its way to the
// kernel, extended timestamps are right, and what a hostile peer can make us
// hold is bounded. A message goes out as one chunk of type 0 (absolute
// timestamp, nothing to drift) and continuations of type 3 which repeat the
// extended timestamp where there is one. The chunk size is [ChunkSize].
//
// # Secrets
//
// The stream key, the password and the query of a URL are secrets. No error or
// log line of this package contains them, not even where the peer echoes them.
package rtmp
