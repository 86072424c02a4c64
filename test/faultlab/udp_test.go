package faultlab

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An arrival is a datagram at the far end: its number, and how long it took.
type arrival struct {
	n    int
	took time.Duration
}

// line sends n numbered datagrams at once over one direction of a proxy, on a
// synthetic clock and without sockets: what arrives, and the counts.
func line(t *testing.T, n int, i Impairment) (got []arrival, counts Counts) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newUDP(nil, i, Impairment{}, 7)
		p.wg.Go(p.deliver)
		begin := time.Now()
		for k := range n {
			p.take(up, binary.BigEndian.AppendUint32(make([]byte, 96), uint32(k)), func(b []byte) {
				got = append(got, arrival{int(binary.BigEndian.Uint32(b[96:])), time.Since(begin)})
			})
		}
		time.Sleep(time.Minute)
		close(p.done)
		p.wg.Wait()
		counts, _ = p.Counts()
	})
	if uint64(len(got)) != counts.Sent || counts.Sent != counts.Received-counts.Lost+counts.Duplicated {
		t.Errorf("%d datagrams arrived, the counts are %+v", len(got), counts)
	}
	return got, counts
}

func inOrder(got []arrival) bool {
	return slices.IsSortedFunc(got, func(a, b arrival) int { return a.n - b.n })
}

func TestDelaysInOrder(t *testing.T) {
	got, _ := line(t, 300, Impairment{Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond})
	if len(got) != 300 || !inOrder(got) {
		t.Errorf("%d datagrams, in order: %v", len(got), inOrder(got))
	}
	if first, last := got[0].took, got[299].took; first < 20*time.Millisecond || last > 30*time.Millisecond || last < 29*time.Millisecond {
		t.Errorf("they took %v to %v", first, last)
	}
}

func TestLoses(t *testing.T) {
	const n = 4000
	f := func(i Impairment) (share, burst float64) {
		t.Helper()
		got, counts := line(t, n, i)
		runs, last := 0, -1
		for _, a := range got {
			if a.n > last+1 {
				runs++
			}
			last = a.n
		}
		return float64(counts.Lost) / n, float64(counts.Lost) / float64(max(runs, 1))
	}
	if share, burst := f(Impairment{Loss: 0.1}); math.Abs(share-0.1) > 0.02 || burst > 1.3 {
		t.Errorf("lost %.3f in bursts of %.2f", share, burst)
	}
	if share, burst := f(Impairment{Loss: 0.1, Burst: 5}); math.Abs(share-0.1) > 0.03 || math.Abs(burst-5) > 1.5 {
		t.Errorf("lost %.3f in bursts of %.2f", share, burst)
	}
	if share, _ := f(Impairment{Loss: 1}); share != 1 {
		t.Errorf("lost %.3f of all", share)
	}
	if share, _ := f(Impairment{Drop: func(b []byte) bool { return b[99] == 1 }}); math.Abs(share-1./256) > 0.001 {
		t.Errorf("dropped %.4f", share)
	}
}

func TestReordersAndRepeats(t *testing.T) {
	got, counts := line(t, 1000, Impairment{Reorder: 0.1, Duplicate: 0.1})
	if counts.Duplicated < 50 || counts.Reordered < 50 || counts.Lost > 0 || inOrder(got) {
		t.Errorf("%d datagrams, in order: %v, %+v", len(got), inOrder(got), counts)
	}
	seen := make(map[int]bool)
	late := 0
	for _, a := range got {
		seen[a.n] = true
		switch a.took {
		case 0:
		case 10 * time.Millisecond:
			late++
		default:
			t.Errorf("datagram %d took %v", a.n, a.took)
		}
	}
	if len(seen) != 1000 || late < int(counts.Reordered) {
		t.Errorf("%d different ones, %d of them later", len(seen), late)
	}
}

// TestCarriesWhatTheLineDoes: a line of 400 kb/s carries 500 datagrams of 100 bytes in
// a second, one each 2 ms, and 200 wait in its queue beside the one that it carries.
func TestCarriesWhatTheLineDoes(t *testing.T) {
	got, counts := line(t, 500, Impairment{BitsPerSecond: 400_000, QueueBytes: 20_000})
	if len(got) != 201 || counts.Lost != 299 || !inOrder(got) {
		t.Errorf("%d datagrams passed a queue of 200, %+v", len(got), counts)
	}
	for i, a := range got {
		if want := time.Duration(i+1) * 2 * time.Millisecond; a.took != want {
			t.Errorf("datagram %d took %v, want %v", a.n, a.took, want)
		}
	}
}

// TestProxy: over sockets, both ways, everything passes in order, to each of two clients
// its own; what is set while it runs counts from then on.
func TestProxy(t *testing.T) {
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	p, err := NewUDP(echo.LocalAddr().String(), Impairment{}, Impairment{}, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = echo.Close()
		<-done
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	var clients [2]*net.UDPConn
	for i := range clients {
		if clients[i], err = net.DialUDP("udp4", nil, p.Addr()); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = clients[i].Close() }()
		_ = clients[i].SetDeadline(time.Now().Add(time.Minute))
	}
	const batch, batches = 20, 25 // what fits every socket's buffer
	b := make([]byte, 2048)
	for k := range batches {
		for i, c := range clients {
			for n := range batch {
				if _, err := c.Write(binary.BigEndian.AppendUint32([]byte{byte(i)}, uint32(k*batch+n))); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, c := range clients {
			for n := range batch {
				if _, err := c.Read(b); err != nil {
					t.Fatal(err)
				}
				if got, want := binary.BigEndian.Uint32(b[1:]), uint32(k*batch+n); got != want || b[0] != byte(i) {
					t.Fatalf("client %d got datagram %d of client %d, want %d", i, got, b[0], want)
				}
			}
		}
	}
	const all = uint64(len(clients) * batch * batches)
	if a, b := p.Counts(); a != (Counts{Received: all, Sent: all}) || a != b {
		t.Errorf("counts %+v %+v", a, b)
	}
	p.Set(Impairment{Drop: func(b []byte) bool { return b[0] == 'x' }}, Impairment{})
	for _, text := range []string{"x", "y"} {
		if _, err := clients[0].Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := clients[0].Read(b); err != nil || string(b[:n]) != "y" {
		t.Errorf("%q came back, %v", b[:n], err)
	}
}

func TestTargetMustBeAnAddress(t *testing.T) {
	if _, err := NewUDP("nowhere", Impairment{}, Impairment{}, 1); err == nil {
		t.Error("nowhere passes as a target")
	}
}
