package router

import (
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
)

func TestMeter(t *testing.T) {
	const ms = time.Millisecond
	var m meter
	unit := func(dts, pts time.Duration, key bool) {
		m.count(&entry{video: true, unit: &media.AccessUnit{DTS: dts, PTS: pts, RandomAccess: key, Payload: make([]byte, 10)}})
	}
	want := func(what string, units, reordered uint64, interval time.Duration) {
		t.Helper()
		if st := m.stats(); st.Units != units || st.Bytes != 10*units || st.Reordered != reordered || st.KeyframeInterval != interval {
			t.Errorf("%s: %+v", what, st)
		}
	}
	want("nothing", 0, 0, 0)
	unit(0, 0, true)
	want("one", 1, 0, 0)
	unit(40*ms, 40*ms, false)
	want("open", 2, 0, 40*ms)
	unit(2000*ms, 2000*ms, true)
	want("closed", 3, 0, 2000*ms)
	unit(2040*ms, 2120*ms, false) // P, and two B before it
	unit(2080*ms, 2040*ms, false)
	unit(2120*ms, 2080*ms, false)
	want("B-frames", 6, 2, 2000*ms)
	unit(6100*ms, 6100*ms, false)
	want("a long one that is open", 7, 2, 4100*ms)
	m.count(&entry{video: true, disc: true, unit: &media.AccessUnit{DTS: 9000 * ms, PTS: 9000 * ms, RandomAccess: true, Payload: make([]byte, 10)}})
	want("a gap is no interval", 8, 2, 2000*ms)
	unit(11*time.Second, 11*time.Second, true)
	want("the next one is", 9, 2, 2000*ms)
}
