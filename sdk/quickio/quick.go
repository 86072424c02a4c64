//go:build linux && !race && (amd64 || arm64 || arm)

package quickio

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

func wrap(c net.Conn) net.Conn {
	if q := newConn(c); q != nil {
		return q
	}
	return c
}

func newWriter(c net.Conn) vectorWriter {
	if q := newConn(c); q != nil {
		return q
	}
	return plain{c}
}

// conn is a socket with quick reads and writes.
type conn struct {
	net.Conn
	raw syscall.RawConn

	reading sync.Mutex // guards in
	in      call
	writing sync.Mutex // guards the fields below
	out     call
	vector  []syscall.Iovec
}

// newConn returns nil if c is no socket.
func newConn(c net.Conn) *conn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	q := &conn{Conn: c, raw: raw}
	q.in.init(syscall.SYS_READ)
	q.out.init(syscall.SYS_WRITE)
	return q
}

// A call is a system call that the poller repeats when the socket is ready.
type call struct {
	trap  uintptr
	what  unsafe.Pointer // bytes, or Iovecs
	size  int            // of them
	n     int            // what it returned
	errno syscall.Errno
	try   func(fd uintptr) bool // made once: it would be garbage of each call
}

func (c *call) init(trap uintptr) {
	c.trap = trap
	c.try = func(fd uintptr) bool {
		for {
			n, _, errno := syscall.RawSyscall(c.trap, fd, uintptr(c.what), uintptr(c.size))
			switch errno {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				return false
			}
			c.n, c.errno = int(n), errno
			return true
		}
	}
}

// do makes the call once the socket is ready for it.
func (c *call) do(wait func(func(uintptr) bool) error, what unsafe.Pointer, size int) (int, error) {
	c.what, c.size = what, size
	err := wait(c.try)
	c.what = nil
	switch {
	case err != nil:
		return 0, err
	case c.errno != 0:
		return 0, c.errno
	}
	return c.n, nil
}

// explain words an error as package net does.
func explain(c net.Conn, op string, err error) error {
	var e *net.OpError
	if errors.As(err, &e) { // of the poller: closed, or too late
		e.Op = op
		return err
	}
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

// Read implements [net.Conn].
func (q *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return q.Conn.Read(b)
	}
	q.reading.Lock()
	defer q.reading.Unlock()
	n, err := q.in.do(q.raw.Read, unsafe.Pointer(&b[0]), len(b))
	if err != nil {
		return 0, explain(q, "read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write implements [net.Conn].
func (q *conn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return q.Conn.Write(b)
	}
	q.writing.Lock()
	defer q.writing.Unlock()
	q.out.trap = syscall.SYS_WRITE
	total := 0
	for total < len(b) {
		n, err := q.out.do(q.raw.Write, unsafe.Pointer(&b[total]), len(b)-total)
		total += n
		if err != nil {
			return total, explain(q, "write", err)
		}
	}
	return total, nil
}

// iovMax is how many pieces the kernel takes at once.
const iovMax = 1024

// WriteBuffers implements vectorWriter.
func (q *conn) WriteBuffers(v *net.Buffers) (int64, error) {
	q.writing.Lock()
	defer q.writing.Unlock()
	q.out.trap = syscall.SYS_WRITEV
	defer func() { clear(q.vector[:cap(q.vector)]) }()
	total := int64(0)
	for {
		q.vector = q.vector[:0]
		for _, b := range *v {
			if len(b) == 0 {
				continue
			}
			iov := syscall.Iovec{Base: &b[0]}
			iov.SetLen(len(b))
			if q.vector = append(q.vector, iov); len(q.vector) == iovMax {
				break
			}
		}
		if len(q.vector) == 0 {
			*v = nil
			return total, nil
		}
		n, err := q.out.do(q.raw.Write, unsafe.Pointer(&q.vector[0]), len(q.vector))
		total += int64(n)
		consume(v, n)
		if err != nil {
			return total, explain(q, "writev", err)
		}
	}
}

// consume takes n bytes from the front of v.
func consume(v *net.Buffers, n int) {
	for len(*v) > 0 {
		first := (*v)[0]
		if len(first) > n {
			(*v)[0] = first[n:]
			return
		}
		n -= len(first)
		(*v)[0] = nil
		*v = (*v)[1:]
	}
}
