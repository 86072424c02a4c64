package peers

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Nginx is a running nginx-rtmp: the legacy CDN. It has the applications a and
// b, which record every publisher into an FLV file of its own, and live, which
// does not record.
type Nginx struct {
	RTMPAddr string // host:port
	HTTPAddr string // host:port of /stat and /control
	dir      string
	path     string
	proc     *Process
}

const nginxConf = `load_module %[1]s;
daemon off;
master_process off;
worker_processes 1;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log info;
events { worker_connections 512; }
rtmp {
  access_log %[2]s/rtmp.log;
  server {
    listen %[3]s;
    chunk_size 4096;
    ping 30s;
    application live { live on; record off; wait_key on; sync 10ms; }
    application a { live on; wait_key on; record all; record_path %[2]s/a; record_unique on; }
    application b { live on; wait_key on; record all; record_path %[2]s/b; record_unique on; }
  }
}
http {
  access_log off;
  client_body_temp_path %[2]s/cb; proxy_temp_path %[2]s/pt; fastcgi_temp_path %[2]s/ft; uwsgi_temp_path %[2]s/ut; scgi_temp_path %[2]s/st;
  server {
    listen %[4]s;
    location /stat { rtmp_stat all; }
    location /control { rtmp_control all; }
  }
}
`

// StartNginx starts nginx-rtmp on free ports.
func StartNginx(t testing.TB) *Nginx {
	t.Helper()
	n := NewNginx(t)
	n.Start(t)
	return n
}

// NewNginx prepares an nginx-rtmp whose ports are known but that does not run
// yet: a target that is down.
func NewNginx(t testing.TB) *Nginx {
	t.Helper()
	n := &Nginx{RTMPAddr: FreeAddr(t), HTTPAddr: FreeAddr(t), dir: t.TempDir(), path: Find(t, "nginx")}
	for _, app := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(n.dir, app), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(nginxConf, rtmpModule, n.dir, n.RTMPAddr, n.HTTPAddr)
	if err := os.WriteFile(filepath.Join(n.dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

// Start starts it; also again after Stop, on the same ports and folders.
func (n *Nginx) Start(t testing.TB) {
	t.Helper()
	n.proc = Start(t, Command{Name: "nginx", Path: n.path, Args: []string{"-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", filepath.Join(n.dir, "error.log")}})
	n.proc.WaitListening(t, 30*time.Second, n.RTMPAddr)
	n.proc.WaitListening(t, 30*time.Second, n.HTTPAddr)
}

// Stop kills it: its connections are reset.
func (n *Nginx) Stop() { n.proc.Kill() }

// Pause stops the process by SIGSTOP: connections stay open, nothing is read.
func (n *Nginx) Pause(t testing.TB) {
	t.Helper()
	if err := n.proc.Signal(syscall.SIGSTOP); err != nil {
		t.Fatalf("pausing nginx: %v", err)
	}
}

// Resume lets it run again.
func (n *Nginx) Resume(t testing.TB) {
	t.Helper()
	if err := n.proc.Signal(syscall.SIGCONT); err != nil {
		t.Fatalf("resuming nginx: %v", err)
	}
}

// URL returns the address of a stream.
func (n *Nginx) URL(app, key string) string {
	return fmt.Sprintf("rtmp://%s/%s/%s", n.RTMPAddr, app, key)
}

// Recordings returns the FLV files that an application has recorded, oldest
// first. The newest one may still be written to.
func (n *Nginx) Recordings(t testing.TB, app string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, app, "*.flv"))
	if err != nil {
		t.Fatal(err)
	}
	type aged struct {
		name string
		at   time.Time
	}
	var list []aged
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, aged{f, info.ModTime()})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].at.Before(list[j].at) })
	files = files[:0]
	for _, f := range list {
		files = append(files, f.name)
	}
	return files
}

// Stat is what nginx-rtmp says about itself.
type Stat struct {
	Accepted int           `xml:"naccepted"` // TCP connections so far
	Apps     []Application `xml:"server>application"`
}

// An Application is one part of [Stat].
type Application struct {
	Name    string   `xml:"name"`
	Streams []Stream `xml:"live>stream"`
}

// A Stream is one stream of an [Application]. Its meta data are those of its
// start: nginx-rtmp does not follow changes.
type Stream struct {
	Name       string    `xml:"name"`
	BytesIn    int64     `xml:"bytes_in"`
	Width      int       `xml:"meta>video>width"`
	Height     int       `xml:"meta>video>height"`
	VideoCodec string    `xml:"meta>video>codec"`
	AudioCodec string    `xml:"meta>audio>codec"`
	Profile    string    `xml:"meta>audio>profile"`
	Channels   int       `xml:"meta>audio>channels"`
	SampleRate int       `xml:"meta>audio>sample_rate"`
	Clients    []Client  `xml:"client"`
	Publishing *struct{} `xml:"publishing"`
}

// A Client is one connection. IDs are not used again.
type Client struct {
	ID         int       `xml:"id"`
	Address    string    `xml:"address"`
	FlashVer   string    `xml:"flashver"`
	Timestamp  int64     `xml:"timestamp"` // ms, of the newest message
	Publishing *struct{} `xml:"publishing"`
}

// Stat asks for the state.
func (n *Nginx) Stat() (Stat, error) {
	var s Stat
	body, err := n.get("/stat")
	if err != nil {
		return s, err
	}
	if err := xml.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("reading nginx's state: %w", err)
	}
	return s, nil
}

// Publisher returns the connection that publishes a stream, and the stream; an
// error while nobody does.
func (n *Nginx) Publisher(app, key string) (Client, Stream, error) {
	s, err := n.Stat()
	if err != nil {
		return Client{}, Stream{}, err
	}
	for _, a := range s.Apps {
		if a.Name != app {
			continue
		}
		for _, st := range a.Streams {
			if st.Name != key {
				continue
			}
			if i := slices.IndexFunc(st.Clients, func(c Client) bool { return c.Publishing != nil }); i >= 0 {
				return st.Clients[i], st, nil
			}
		}
	}
	return Client{}, Stream{}, fmt.Errorf("nobody publishes %s/%s", app, key)
}

// WaitPublisher waits until a stream is published and its codecs are known.
func (n *Nginx) WaitPublisher(t testing.TB, d time.Duration, app, key string) (Client, Stream) {
	t.Helper()
	var c Client
	var st Stream
	Wait(t, d, "a publisher of "+app+"/"+key+" at nginx", func() error {
		var err error
		c, st, err = n.Publisher(app, key)
		if err == nil && (st.VideoCodec == "" || st.AudioCodec == "") {
			err = fmt.Errorf("codecs not seen yet: %+v", st)
		}
		return err
	})
	return c, st
}

// DropPublisher disconnects the publisher of a stream.
func (n *Nginx) DropPublisher(app, key string) error {
	_, err := n.get("/control/drop/publisher?" + url.Values{"app": {app}, "name": {key}}.Encode())
	return err
}

func (n *Nginx) get(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s at nginx: %s", path, resp.Status)
	}
	return body, nil
}

// Unpublished returns an error unless the last publisher of a stream has said
// goodbye before its connection ended.
func (n *Nginx) Unpublished(key string) error {
	b, err := os.ReadFile(filepath.Join(n.dir, "error.log"))
	if err != nil {
		return err
	}
	// Of a connection that just ends, nginx logs "disconnect" before it deletes
	// the stream by itself.
	var connection, goodbye string
	for line := range strings.Lines(string(b)) {
		_, said, _ := strings.Cut(line, ": *")
		id, said, _ := strings.Cut(said, " ")
		switch {
		case strings.HasPrefix(said, "publish: name='"+key+"'"):
			connection, goodbye = id, ""
		case connection != "" && id == connection && goodbye == "" && (strings.HasPrefix(said, "deleteStream") || strings.HasPrefix(said, "disconnect")):
			goodbye = strings.TrimSpace(said)
		}
	}
	if !strings.HasPrefix(goodbye, "deleteStream") {
		return fmt.Errorf("nginx has heard no goodbye from the publisher of %s, but %q", key, goodbye)
	}
	return nil
}
