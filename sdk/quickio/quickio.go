// Package quickio reads and writes sockets without telling Go's scheduler. It
// knows sockets that are non-blocking, as those of package net are; it knows
// nothing of what they carry.
//
// Around every ordinary system call the scheduler gets ready for one that blocks:
// in a process that was idle it wakes its monitoring thread, which naps for some
// 20 µs at a time until nothing happens any more, and which hands the call's
// processor on when the call takes longer than a nap. A media process is idle a
// hundred times a second, and a call on a socket that is non-blocking does not
// block: the monitor alone was a quarter of the processor time of such a process,
// and the threads that it woke came on top. What would block waits in the
// runtime's poller as ever, and deadlines and Close mean the same.
//
// With the race detector, and on other systems than Linux, the calls are the
// ordinary ones.
package quickio

import "net"

// Conn returns c with quick reads and writes. A c that is no socket is returned
// as it is.
func Conn(c net.Conn) net.Conn { return wrap(c) }

// A Writer writes to a connection, and many pieces at once. Its methods are safe for concurrent use.
// Make it with [NewWriter].
type Writer struct{ w vectorWriter }

type vectorWriter interface {
	Write(b []byte) (int, error)
	WriteBuffers(v *net.Buffers) (int64, error)
}

// NewWriter returns a writer to c. Its writes are the ordinary ones if c is no socket.
func NewWriter(c net.Conn) *Writer { return &Writer{newWriter(c)} }

// Write implements [io.Writer].
func (w *Writer) Write(b []byte) (int, error) { return w.w.Write(b) }

// WriteBuffers writes all of v in order and consumes it, as [net.Buffers.WriteTo]
// does.
func (w *Writer) WriteBuffers(v *net.Buffers) (int64, error) { return w.w.WriteBuffers(v) }

// plain is a connection as it is.
type plain struct{ net.Conn }

func (p plain) WriteBuffers(v *net.Buffers) (int64, error) { return v.WriteTo(p.Conn) }
