package sdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/headgate/gateway/sdk/media"
	"github.com/headgate/gateway/sdk/secret"
	"github.com/headgate/gateway/sdk/wire"
)

type options struct {
	CA      File                     `json:"ca,omitempty" jsonschema:"description=Root certificates"`
	Timeout time.Duration            `json:"timeout,omitempty"`
	Key     secret.String            `json:"key,omitempty"`
	Port    int                      `json:"port" jsonschema:"required,minimum=1"`
	Peers   []peer                   `json:"peers,omitempty"`
	Delays  map[string]time.Duration `json:"delays,omitempty"`
	Deep    *peer                    `json:"deep,omitempty"`
}

type peer struct {
	Cert File `json:"cert"`
}

func TestDecodeOptions(t *testing.T) {
	files := map[string][]byte{"ca": []byte("roots"), "peers.1.cert": []byte("second"), "deep.cert": []byte("deep")}
	var got options
	err := decodeOptions([]byte(`{"ca":"/etc/ca.pem","timeout":"1.5s","key":"k3y","port":1935,
		"peers":[{"cert":"a"},{"cert":"b"}],"delays":{"x":"20ms"},"deep":{"cert":"c"}}`), files, &got)
	want := options{
		CA: File{"/etc/ca.pem", []byte("roots")}, Timeout: 1500 * time.Millisecond, Key: secret.New("k3y"), Port: 1935,
		Peers:  []peer{{File{Name: "a"}}, {File{"b", []byte("second")}}},
		Delays: map[string]time.Duration{"x": 20 * time.Millisecond}, Deep: &peer{File{"c", []byte("deep")}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}

	kept := options{Port: 7}
	if err := decodeOptions(nil, nil, &kept); err != nil || kept.Port != 7 {
		t.Errorf("no options: %v, %+v", err, kept)
	}
	f := func(raw, want string) {
		t.Helper()
		if err := decodeOptions([]byte(raw), nil, &options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", raw, err, want)
		}
	}
	f(`{"timeout":"4"}`, `timeout: want a duration such as 250ms, got "4"`)
	f(`{"delays":{"x":7}}`, `delays.x: want a duration such as 250ms`)
	f(`{"peers":[{"cert":1}]}`, `peers.0.cert: want the name of a file`)
	f(`{"prot":1}`, `unknown field "prot"`)
	f(`{`, `unexpected EOF`)
}

func TestSchema(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal(schemaOf(&options{}), &got); err != nil {
		t.Fatal(err)
	}
	properties := got["properties"].(map[string]any)
	f := func(name, want string) {
		t.Helper()
		b, err := json.Marshal(properties[name])
		if err != nil || string(b) != want {
			t.Errorf("%s: %s, want %s", name, b, want)
		}
	}
	f("ca", `{"description":"Root certificates","format":"file","type":"string"}`)
	f("timeout", `{"format":"duration","type":"string"}`)
	f("key", `{"format":"password","type":"string","writeOnly":true}`)
	f("port", `{"minimum":1,"type":"integer"}`)
	if fmt.Sprint(got["required"]) != "[port]" || got["additionalProperties"] != false {
		t.Errorf("required %v, additional %v", got["required"], got["additionalProperties"])
	}
	if schemaOf(nil) != nil {
		t.Error("a schema of nothing")
	}
}

func TestRedaction(t *testing.T) {
	f := func(url, key, text, want string) {
		t.Helper()
		in := Permanent(&Error{Cause: CauseConfig, RetryAfter: time.Second, Err: errors.New(text)})
		err := redactError(secret.Redact(url, key), in)
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
		var e *Error
		if !IsPermanent(err) || !errors.As(err, &e) || e.Cause != CauseConfig || e.RetryAfter != time.Second {
			t.Errorf("%q lost its kind", err)
		}
	}
	f("rtmp://a.example/live2/abcd-1234?x=9876", "", "dial rtmp://a.example/live2/abcd-1234?x=9876: refused", "dial ***: refused")
	f("rtmp://a.example/live2/abcd-1234?x=9876", "", "publish abcd-1234 with x=9876", "publish *** with ***")
	f("rtmp://u:pa55word@a.example/live", "s3cret/x", "pa55word, s3cret/x, s3cret%2Fx and a.example", "***, ***, *** and a.example")
	f("rtmp://a.example/live2/ab%2Dcd%2F12", "", "no stream ab%2Dcd%2F12, nor ab-cd/12", "no stream ***, nor ***")
	f("rtmp://u:p%40ssw%2Drd@a.example/live/x", "", "u:p%40ssw%2Drd@a.example", "u:***@a.example")
	f("file:///var/recordings", "", "open /var/recordings/1.h264: no space", "open /var/recordings/1.h264: no space")
	if err := redactError(secret.Redact("x"), nil); err != nil {
		t.Error(err)
	}
}

func TestCreditsFollowTheRate(t *testing.T) {
	out := wire.NewOutbox[*wire.PluginMsg]()
	c := newCredits(&creditor{out: out}, 1, []media.Track{{BitrateBitsPerSecond: 1e6}})
	if c.window != wire.MinWindowBytes {
		t.Errorf("window %d for 1 Mb/s", c.window)
	}
	var given, window uint64
	play := func(from time.Duration, seconds int, bytesPerSecond int) {
		for i := range seconds * 50 {
			c.done(&media.AccessUnit{DTS: from + time.Duration(i)*20*time.Millisecond, Payload: make([]byte, bytesPerSecond/50)})
		}
		c.flush()
		control, _, err := out.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range control {
			given += m.GetCredit().GetBytes()
			for _, n := range m.GetCredits().GetBytes() {
				given += n
			}
			if w := m.GetCredit().GetWindowBytes(); w != 0 {
				window = w
			}
		}
	}
	play(0, 10, 2_500_000) // 20 Mb/s
	if given != 25_000_000 || window < 600_000 || window > 650_000 {
		t.Errorf("%d bytes given back, window %d", given, window)
	}
	play(10*time.Second, 10, 100_000)
	if given != 26_000_000 || window != wire.MinWindowBytes {
		t.Errorf("%d bytes given back, window %d", given, window)
	}
}

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	log := newLogger(&b)
	log.Debug("not shown")
	log.Warn("careful", "n", 1, slog.Group("g", "level", "inner"), "remote", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1935}, "after", 1500*time.Millisecond)
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	stamp, _ := got["@timestamp"].(string)
	if _, err := time.Parse("2006-01-02T15:04:05.000000Z07:00", stamp); err != nil {
		t.Error(err)
	}
	delete(got, "@timestamp")
	want := map[string]any{"@level": "warn", "@message": "careful", "n": 1.0, "g": map[string]any{"level": "inner"}, "remote": "192.0.2.1:1935", "after": "1.5s"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestCheckPlugin(t *testing.T) {
	err := Plugin{Ingest: &IngestPlugin{Schemes: []string{"rtsp"}, Mounts: []string{"/ok/", "whip"}}, Egress: &EgressPlugin{}, Transforms: []Transform{{}}}.check()
	for _, want := range []string{"Name and Version", "IngestPlugin.Ingest is nil", "EgressPlugin.Egress is nil", "at least one URL scheme", "From, To and Open", `the mount "whip" is not`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
