package rtmp

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket options of a publishing connection: give up on a peer whose kernel
// acknowledges nothing for userTimeout, and keep at most notsentLowat bytes
// unsent in ours, so that the queue stays where it can be dropped from: at
// 600 kb/s, the least that a picture is sent with, that is 0.4 s.
const (
	userTimeout  = 10 * time.Second
	notsentLowat = 32 << 10
)

// tuneSocket sets what the options above say. It fails on kernels that know
// them not, which then do without.
func tuneSocket(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notsentLowat)
	})
}

// roundTrip asks the kernel for the smoothed round trip of a connection; zero if it
// is none of TCP.
func roundTrip(c net.Conn) (rtt time.Duration) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt
}

// stats asks the kernel.
func (s *socket) stats() SocketStats {
	st := SocketStats{Written: s.written.Load()}
	raw, err := s.SyscallConn()
	if err != nil {
		return st
	}
	var info *unix.TCPInfo
	outq := -1
	_ = raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			outq = n
		}
	})
	if info == nil || outq < 0 {
		return st
	}
	// The SYN counts as one acknowledged byte.
	if info.Bytes_acked > 0 {
		st.Acked = info.Bytes_acked - 1
	}
	st.Kernel = true
	st.Unsent, st.Unacked = uint64(info.Notsent_bytes), uint64(outq)
	st.RTT = time.Duration(info.Rtt) * time.Microsecond
	st.MinRTT = time.Duration(info.Min_rtt) * time.Microsecond
	st.Retransmits = uint64(info.Total_retrans)
	entered := st.Acked + st.Unacked
	st.UnackedAge, st.UnsentAge = s.ages(st.Acked, entered-min(entered, st.Unsent), time.Now())
	if st.Unsent > 0 {
		st.DeliveryBPS = info.Delivery_rate * 8
	} else {
		st.UnsentAge = 0
	}
	return st
}
