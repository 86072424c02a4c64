package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// mediamtxVersion is the version that mediamtx.sh builds.
const mediamtxVersion = "v1.21.0"

// MediaMTX is a running MediaMTX: a server that speaks Enhanced RTMP, RTSP, SRT and
// WebRTC. Anybody may publish and read any path.
type MediaMTX struct {
	RTMPAddr, RTSPAddr, SRTAddr, WebRTCAddr, APIAddr string // host:port
	records                                          string // folder; empty: nothing is recorded
	*Process
}

const mediamtxConf = `logLevel: warn
api: true
apiAddress: %[1]s
rtsp: true
rtspTransports: [tcp]
rtspAddress: %[2]s
rtmp: true
rtmpAddress: %[3]s
hls: false
moq: false
webrtc: true
webrtcAddress: %[4]s
webrtcLocalUDPAddress: 127.0.0.1:%[5]d
webrtcIPsFromInterfaces: false
webrtcAdditionalHosts: [127.0.0.1]
srt: true
srtAddress: %[6]s
%[7]spaths:
  all_others:
`

// FindMediaMTX returns the path of the program, which test/peers/mediamtx.sh builds.
// Without it the test is skipped, or fails with HEADGATE_TEST_PEERS=required.
func FindMediaMTX(t testing.TB) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "..", "..", "bin", "tools", "mediamtx-"+mediamtxVersion)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	const msg = "needs MediaMTX: run test/peers/mediamtx.sh"
	if os.Getenv("HEADGATE_TEST_PEERS") == "required" {
		t.Fatal(msg)
	}
	t.Skip(msg)
	return ""
}

// StartMediaMTX starts MediaMTX on free ports.
func StartMediaMTX(t testing.TB) *MediaMTX {
	t.Helper()
	return startMediaMTX(t, "")
}

// RecordMediaMTX starts one that records every path to fragmented MP4; see
// [MediaMTX.Recording].
func RecordMediaMTX(t testing.TB) *MediaMTX {
	t.Helper()
	dir := Scratch(t)
	// A recorder that a busy machine holds up is to wait and leave nothing out.
	m := startMediaMTX(t, fmt.Sprintf("writeQueueSize: 16384\npathDefaults:\n  record: true\n  recordFormat: fmp4\n  recordPath: %s/%%path/%%Y-%%m-%%d_%%H-%%M-%%S-%%f\n", dir))
	m.records = dir
	return m
}

// Recording is the recording of a path, whole once nobody publishes the path any more.
// It begins at a keyframe: MediaMTX leaves out the first unit of the track that begins
// later, which may be the first picture.
func (m *MediaMTX) Recording(t testing.TB, path string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.records, path, "*.mp4"))
	if err != nil || len(files) != 1 {
		t.Fatalf("recordings of %s: %q %v, want one", path, files, err)
	}
	file := filepath.Join(t.TempDir(), "recording.mp4")
	FFmpeg(t, "-i", files[0], "-map", "0", "-c", "copy", "-strict", "experimental", file)
	return file
}

func startMediaMTX(t testing.TB, more string) *MediaMTX {
	t.Helper()
	path := FindMediaMTX(t)
	m := &MediaMTX{RTMPAddr: FreeAddr(t), RTSPAddr: FreeAddr(t), SRTAddr: FreeAddr(t), WebRTCAddr: FreeAddr(t), APIAddr: FreeAddr(t)}
	file := filepath.Join(t.TempDir(), "mediamtx.yml")
	conf := fmt.Sprintf(mediamtxConf, m.APIAddr, m.RTSPAddr, m.RTMPAddr, m.WebRTCAddr, FreePort(t), m.SRTAddr, more)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Process = Start(t, Command{Name: "mediamtx", Path: path, Args: []string{file}})
	for _, addr := range []string{m.APIAddr, m.RTMPAddr, m.RTSPAddr} {
		m.WaitListening(t, 30*time.Second, addr)
	}
	return m
}

// A MediaMTXPath is what MediaMTX says of a published path.
type MediaMTXPath struct {
	Name          string   `json:"name"`
	Ready         bool     `json:"ready"`
	Tracks        []string `json:"tracks"` // H264, H265, AV1, VP9, MPEG-4 Audio, Opus
	BytesReceived uint64   `json:"bytesReceived"`
}

// Path asks for a path.
func (m *MediaMTX) Path(name string) (MediaMTXPath, error) {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get("http://" + m.APIAddr + "/v3/paths/get/" + name)
	if err != nil {
		return MediaMTXPath{}, err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return MediaMTXPath{}, fmt.Errorf("path %s: %s", name, r.Status)
	}
	var p MediaMTXPath
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		return p, fmt.Errorf("reading what MediaMTX says of %s: %w", name, err)
	}
	if !p.Ready {
		return p, errors.New("the path is not ready")
	}
	return p, nil
}
